#!/usr/bin/env bash
# tests/slurm/cluster.sh COMMAND...: run a command beside a SLURM cluster that ends with it.
#
# The cluster is this machine as two nodes; only the partition `pair` has the second. They say that
# they have cores, memory and GPUs enough for profiles/slurm as it stands, and nobody checks; jobs of a
# small study use little of that.
# Everything lies in one temporary folder. Neither root, systemd, cgroups nor a database is needed.
set -euo pipefail

PATH=$PATH:/usr/sbin
for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null || {
    echo "$program is missing. As root: apt-get install -y --no-install-recommends" \
      "slurmctld slurmd slurm-client munge" >&2
    exit 1
  }
done
if pgrep -x 'slurm(ctl)?d' >/dev/null; then
  echo "SLURM is running already: this test wants a machine without a cluster" >&2
  exit 1
fi

folder=$(mktemp -d)
daemons=()
stop() {
  # Jobs end before their daemons do.
  timeout 5 scancel --quiet --user "$(id -un)" 2>/dev/null || true
  timeout 30 bash -c 'while squeue --noheader | grep -q .; do sleep 0.5; done' 2>/dev/null || true
  kill "${daemons[@]}" 2>/dev/null || true
  wait
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT TERM

export SLURM_CONF=$folder/slurm.conf SLURM_TEST_JOBS=$folder/jobs.txt
node=$(hostname -s)
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
# A requeued job waits until its credential is out of date, two minutes by default.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
SlurmctldPort=46817
SlurmdPort=46818
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
# What needs root, systemd or a database is left out.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
# One line for each job that ended, which tests read.
JobCompType=jobcomp/filetxt
JobCompLoc=$SLURM_TEST_JOBS
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Nobody else waits here: look often, and do not wait long for a process to end.
SchedulerParameters=batch_sched_delay=1,sched_interval=5
KillWait=5
# Tests ask about jobs long after their end.
MinJobAge=36000
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=16 RealMemory=100000 Gres=gpu:2
NodeName=second NodeHostname=$node NodeAddr=127.0.0.1 Port=46819 CPUs=16 RealMemory=100000 Gres=gpu:2
PartitionName=cpu Nodes=$node Default=YES
PartitionName=gpu Nodes=$node
PartitionName=urgent Nodes=$node PriorityTier=2
PartitionName=pair Nodes=ALL
CONF
echo "Name=gpu File=/dev/null,/dev/zero" >"$folder/gres.conf"
mkdir "$folder/state" "$folder/spool-$node" "$folder/spool-second" "$folder/bin"

# The plugin's inner srun is started without SLURM_CONF.
cat >"$folder/bin/srun" <<SRUN
#!/bin/sh
SLURM_CONF=$SLURM_CONF exec $(command -v srun) "\$@"
SRUN
chmod +x "$folder/bin/srun"
export PATH=$folder/bin:$PATH

(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
# Ctrl-C is for the command: daemons in sessions of their own outlive it, to end the jobs.
setsid munged --foreground --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" \
  --pid-file "$folder/munge.pid" --seed-file "$folder/munge.seed" 2>"$folder/munged.log" &
daemons+=($!)
setsid slurmctld -D -i >"$folder/slurmctld.log" 2>&1 &
daemons+=($!)
for each in "$node" second; do
  setsid slurmd -D -N "$each" >"$folder/slurmd-$each.log" 2>&1 &
  daemons+=($!)
done

ready() { [[ $(timeout 5 sinfo --noheader --partition pair --format %T 2>/dev/null) == idle ]]; }
for _ in {1..60}; do
  sleep 0.5
  ready && break
  [[ $(jobs -rp | wc -l) == "${#daemons[@]}" ]] || break
done
ready || {
  tail -n 20 "$folder"/*.log >&2
  exit 1
}
"$@"

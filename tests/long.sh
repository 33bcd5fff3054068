#!/usr/bin/env bash
# tests/long.sh: run every long test, and list at the end what passed, failed and was skipped.
#
# A test whose system packages are missing is skipped. The exit status is 1 if any test failed.
set -uo pipefail
trap 'exit 130' INT

PATH=$PATH:/usr/sbin:$(printf '%s:' /usr/lib/postgresql/*/bin)
results=()
failures=0

# long TARGET [PROGRAM...]: make a target that needs these programs.
long() {
  local target=$1 program
  shift
  for program in "$@"; do
    command -v "$program" >/dev/null || {
      results+=("skipped  $target: $program is not installed")
      return
    }
  done
  echo "== $target"
  SECONDS=0
  if make --no-print-directory "$target"; then
    results+=("passed   $target ($SECONDS s)")
  else
    results+=("failed   $target ($SECONDS s)")
    failures=$((failures + 1))
  fi
}

long slurm-test munged slurmctld slurmd sbatch
long box-test initdb
long image-test buildah debootstrap
long report-test chromium
long docs-test chromium
long viewer-test chromium
long punish
long fuzz
long soak

echo "== long tests at $(git rev-parse --short HEAD), $(date +%F)"
printf '%s\n' "${results[@]}"
((failures == 0))

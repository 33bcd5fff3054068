"""Fine-tuning: train an agent in an environment, optionally from a pre-trained world model.

The schedule is the reference's (`examples/train_apv_finetuning.py`): random episodes, offline
updates, then one update every few steps. It evaluates at fixed steps, first after the offline
updates. Settings count agent steps; `scores.csv` and `metrics.jsonl` count the control steps of the
training environment.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from cwm.agent import Agent
from cwm.infra.checkpoint import load_strict, save_weights
from cwm.infra.device import reseed, seed_from, set_up
from cwm.infra.errors import UserError
from cwm.infra.progress import Progress
from cwm.infra.run_dir import RunDir, Score
from cwm.settings import FinetuneConfig, ModelConfig, RuntimeConfig
from cwm.train.compiled import compile_regions
from cwm.train.environment import EnvConfig, make, make_vector
from cwm.train.nan_guard import NaNGuard
from cwm.train.policies import AgentPolicy, DelayedPolicy
from cwm.train.pretrained import load_pretrained
from cwm.train.replay import Episode, Replay
from cwm.train.rollout import Collector, Outcome, Policy, action_shape, evaluate
from cwm.videos.encode import H264, encode
from cwm.videos.store import ClipStore, Mixture
from envs.pixels import PixelEnv


def _check(cfg: FinetuneConfig) -> None:
    """Raise UserError for settings that contradict each other."""
    if cfg.prefill >= cfg.steps:
        raise UserError(f"finetune.prefill {cfg.prefill} must be less than steps {cfg.steps}")
    bonus = cfg.agent.bonus
    if bonus.beta and bonus.window > cfg.length:
        raise UserError(
            f"finetune.agent.bonus.window {bonus.window} exceeds finetune.length {cfg.length}"
        )


class FinetuneLoop:
    """The state of a fine-tuning run: agent, replay buffer, environments and step counters."""

    def __init__(
        self,
        runtime: RuntimeConfig,
        model: ModelConfig,
        env: EnvConfig,
        cfg: FinetuneConfig,
        pretrained: Path | None,
        run: RunDir,
        recorded: Path | None = None,
    ) -> None:
        """Start or resume a run.

        pretrained: weights.json of a pre-trained model. recorded: store.json of recorded episodes;
        those for training that fill a window are in the replay buffer from the beginning.
        """
        _check(cfg)
        self.cfg, self.run = cfg, run
        self.seed = int(run.spec.labels["seed"])
        device = set_up(runtime)
        self.env = make(run.spec.what, env)
        self.simulator = cast(PixelEnv, self.env.unwrapped)
        (action_dim,) = self.action_shape = action_shape(self.env.action_space)
        reseed(self.seed, "weights")
        self.agent = Agent(model, cfg.agent, action_dim, runtime.precision).to(device)
        if pretrained is not None:
            load_pretrained(self.agent.world, pretrained)
        self.policy = (DelayedPolicy if cfg.overlap else AgentPolicy)(self.agent, explore=True)
        replay = run.folder / "replay"
        # An episode of n steps has n + 1 entries; at most steps / length episodes are long enough.
        entries = cfg.steps + cfg.steps // cfg.length
        self.recorded = self._open(recorded) if recorded is not None else None
        self.initial = 0  # episodes of the buffer that are recorded
        if self.recorded is not None:
            initial = self.recorded.eligible(cfg.length + 1, "train")
            self.initial = len(initial)
            entries += int(self.recorded.index["length"][initial].sum())
        self.replay = Replay(cfg.replay, replay, cfg.length, entries, device)
        self.guard = NaNGuard(run, device)
        self.step = 0
        self.learning_start: int | None = None  # step of the first update
        self.restore()
        for agent in {self.agent, self.policy.agent}:  # after the copy, which would share captures
            if runtime.compile:
                compile_regions(agent)
            if device == "cuda" and runtime.graphs:
                agent.capture()
        self.collector = Collector(self.env, self.seed, self.episodes)
        self.eval_envs = make_vector(run.spec.what, env, cfg.eval_envs)

    def _open(self, recorded: Path) -> ClipStore:
        """Open a store of recorded episodes; UserError unless they fit the task."""
        store = ClipStore.open(recorded)
        if isinstance(store, Mixture):
            raise UserError(f"{recorded} is a mixture; give the store of recorded episodes")
        if store.steps.reward is None:
            raise UserError(f"{recorded} has no rewards, from which an agent learns its task")
        if (size := store.steps.action.shape[1]) != self.action_shape[0]:
            task = f"{self.run.spec.what} needs {self.action_shape[0]}"
            raise UserError(f"{recorded} has actions of {size} values, and {task}")
        return store

    def _fill(self, store: ClipStore) -> None:
        """Add the recorded episodes to the replay buffer, in the order of the store."""
        for clip in store.eligible(self.cfg.length + 1, "train"):
            where = np.array([clip]), np.array([0]), int(store.index["length"][clip])
            action, reward = store.steps_of(*where)
            if reward is not None:
                self.replay.add(Episode(store.windows_of(*where)[0], action[0], reward[0]))

    @property
    def episodes(self) -> int:
        """Episodes that this run has finished in the training environment."""
        return self.replay.count - self.initial

    def save(self) -> None:
        """Write a checkpoint. Call it at the end of an episode: simulator state is not saved."""
        self.guard.check()
        optimizers = self.agent.optimizers.items()
        tensors = {"agent": self.agent.state_dict()}
        tensors |= {f"optimizer-{name}": o.state() for name, o in optimizers}
        state: dict[str, Any] = {"begun": self.learning_start, "updates": self.agent.updates}
        state["control_steps"] = self.control_steps
        state |= {"episodes": self.replay.count, "remembered": self.replay.remembered}
        self.run.checkpoint(self.step, tensors, **state)
        self.replay.prune()

    def restore(self) -> None:
        """Resume from the last checkpoint, or begin with an empty replay buffer."""
        found = self.run.resume()
        if not found:
            self.replay.restore(0, {})
            if self.recorded is not None:
                self._fill(self.recorded)
            return
        tensors, state = found
        with self.run.checkpoints.restoring():
            self.replay.restore(state["episodes"], state["remembered"])
            load_strict(self.agent, tensors["agent"])
            for name, optimizer in self.agent.optimizers.items():
                optimizer.load_state(tensors[f"optimizer-{name}"])
            self.step, self.learning_start = state["step"], state["begun"]
            self.agent.updates = state["updates"]
            self.simulator.control_steps = state["control_steps"]

    def update(self, rate: float) -> dict[str, float]:
        """Do one update; return its metrics if this one is logged."""
        i = self.agent.updates
        batch = self.replay.sample(self.seed, i, self.cfg.batch)
        self.policy.sync_weights()
        reseed(self.seed, "update", i)
        metrics = {f"train/{name}": x for name, x in self.agent.update(batch).items()}
        self.guard.record(i, metrics, batch._asdict())
        if i % self.cfg.log_every:
            return {}
        self.guard.check()
        return self.run.log(self.control_steps, metrics, rate)

    @property
    def control_steps(self) -> int:
        """Control steps of the training environment since the run began, including resumed ones."""
        return self.simulator.control_steps

    def evaluate(self, rate: float) -> dict[str, float]:
        """Evaluate the mode of the policy in environments with separate seeds."""
        seeds = [seed_from(self.seed, "eval", self.step, i) for i in range(self.cfg.eval_episodes)]
        reseed(self.seed, "eval", self.step)
        last = self.step == self.cfg.steps
        outcomes = list(
            evaluate(
                self.eval_envs, lambda: AgentPolicy(self.agent, explore=False), seeds, film=last
            )
        )
        self.run.score([self.score(i, o, "eval") for i, o in enumerate(outcomes)])
        if last:
            enlarged = (np.kron(f, np.ones((4, 4, 1), np.uint8)) for f in outcomes[0].frames)
            encode(self.run.folder / "episode.mp4", enlarged, 15, H264)
        metrics: dict[str, Any] = {"eval/return": np.mean([o.return_ for o in outcomes])}
        for name in outcomes[0].costs:
            metrics[f"eval/{name}"] = np.mean([o.costs[name] for o in outcomes])
        if outcomes[0].success is not None:
            metrics["eval/success"] = np.mean([o.success for o in outcomes])
        return self.run.log(self.control_steps, metrics, rate)

    def score(self, episode: int, outcome: Outcome, split: str) -> Score:
        """A row of scores.csv."""
        return Score(
            self.control_steps, episode, outcome.return_, outcome.success, outcome.length, split
        )

    def random_action(self, image: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        """A uniformly random action, used during prefill; a function of seed and step."""
        rng = np.random.default_rng([self.seed, 0xAC7, self.step])
        return rng.uniform(-1, 1, (1, *self.action_shape)).astype(np.float32)

    def collect(self, policy: Policy) -> bool:
        """Take one step in the training environment; return whether an episode ended."""
        collector = self.collector
        reseed(self.seed, "act", self.step)
        action = policy(collector.image[None], np.array([collector.is_first]))[0]
        finished = collector.step(action)
        self.step += 1
        if finished is None:
            return False
        episode, outcome = finished
        self.run.score([self.score(self.episodes, outcome, "train")])
        self.replay.add(episode)
        return True

    def close(self) -> None:
        """Close the environments."""
        self.env.close()
        self.eval_envs.close()


def finetune(loop: FinetuneLoop) -> None:
    """Run the loop; publish the agent, its scores and a video of an evaluation episode."""
    cfg, run = loop.cfg, loop.run
    with Progress(total=cfg.steps, start=loop.step, label=run.label) as bar:
        show = _shower(bar, loop)
        while loop.step < cfg.steps:
            learning_start = loop.learning_start
            ended = loop.collect(loop.random_action if learning_start is None else loop.policy)
            if learning_start is None:
                if ended and loop.step >= cfg.prefill:
                    loop.learning_start = loop.step
                    with bar.phase("offline updates", cfg.offline_updates, "updates"):
                        for i in range(cfg.offline_updates):
                            show(loop.update(0.0), i + 1)
                    show(loop.evaluate(bar.rate))
            else:
                since = loop.step - learning_start
                if since % cfg.train_every == 1 % cfg.train_every:
                    show(loop.update(bar.rate))
                if since % cfg.eval_every == 0 or loop.step == cfg.steps:
                    show(loop.evaluate(bar.rate))
            show({})
            if ended and run.due() and loop.step < cfg.steps:
                loop.save()
    loop.close()
    loop.guard.check()
    if loop.learning_start is None:
        raise UserError(f"no episode ended within finetune.steps {cfg.steps}; set env.time_limit")
    about = {"kind": "agent", "steps": cfg.steps, **run.spec.labels}
    save_weights(run.folder, loop.agent.state_dict(), about)
    logs = ("metrics.jsonl", "timing.jsonl", "scores.csv")
    run.publish(*logs, "episode.mp4", "weights.safetensors", "weights.json")


def _shower(bar: Progress, loop: FinetuneLoop) -> Callable[..., None]:
    shown = {"train/image": "image", "train/kl": "kl", "eval/return": "return"}

    def show(metrics: dict[str, float], done: int | None = None) -> None:
        done = loop.step if done is None else done
        bar.update(done, {shown[n]: x for n, x in metrics.items() if n in shown})

    return show

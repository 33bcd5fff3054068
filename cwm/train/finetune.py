"""An environment, and perhaps a pre-trained world model -> an agent and its learning curve.

The schedule is the reference's (`examples/train_apv_finetuning.py`): random episodes, offline
updates, then one update every few steps; evaluation at fixed steps, the first before learning
from the agent's own actions. Steps are agent steps, but in `scores.csv` and `metrics.jsonl` they
are the control steps that the training environment took.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from cwm.agent import Agent, AgentConfig
from cwm.infra.checkpoint import fill, load_parts, load_weights, save_weights
from cwm.infra.errors import UserError
from cwm.infra.progress import Progress
from cwm.infra.run_dir import RunDir, Score
from cwm.infra.runtime import RuntimeConfig, reseed, seed_from, set_up
from cwm.train.compiled import compile_regions
from cwm.train.nan_guard import NaNGuard
from cwm.train.policies import AgentPolicy, DelayedPolicy
from cwm.train.replay import Replay, ReplayConfig
from cwm.train.rollout import Collector, EnvConfig, Outcome, Policy, evaluate, make, make_vector
from cwm.videos.encode import H264, encode
from cwm.world.vision import ModelConfig


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FinetuneConfig:
    """Model-based reinforcement learning of one task; what suites differ in is in their files."""

    agent: AgentConfig = AgentConfig()
    replay: ReplayConfig = ReplayConfig()
    steps: PositiveInt = 255_000  # agent steps
    prefill: NonNegativeInt = 5000  # steps of random actions, up to the end of an episode
    offline_updates: NonNegativeInt = 100  # updates before the agent acts
    train_every: PositiveInt = 5  # steps between updates
    overlap: bool = False  # act while a GPU is updating, with the weights before the update
    batch: PositiveInt = 50
    length: PositiveInt = 50
    eval_every: PositiveInt = 10_000
    eval_episodes: PositiveInt = 10
    eval_envs: PositiveInt = 1  # evaluation episodes that are stepped together
    log_every: PositiveInt = 100  # updates
    checkpoint_seconds: NonNegativeFloat = 300.0


def _check(cfg: FinetuneConfig) -> None:
    """What settings must be to one another."""
    if cfg.prefill >= cfg.steps:
        raise UserError(f"finetune.prefill {cfg.prefill} must be less than steps {cfg.steps}")
    bonus = cfg.agent.bonus
    if bonus.beta and bonus.window > cfg.length:
        raise UserError(
            f"finetune.agent.bonus.window {bonus.window} is more than finetune.length {cfg.length}"
        )


class FinetuneLoop:
    """A run: its settings, and everything that changes while it runs."""

    def __init__(
        self,
        runtime: RuntimeConfig,
        model: ModelConfig,
        env: EnvConfig,
        cfg: FinetuneConfig,
        pretrained: Path | None,
        run: RunDir,
    ) -> None:
        _check(cfg)
        self.cfg, self.run = cfg, run
        self.seed = int(run.spec.labels["seed"])
        device = set_up(runtime)
        self.env = make(run.spec.what, env)
        (action_dim,) = self.env.action_space.shape
        reseed(self.seed, "weights")
        self.agent = Agent(model, cfg.agent, action_dim, runtime.precision).to(device)
        if pretrained is not None:
            self._load(pretrained)
        self.actor = (DelayedPolicy if cfg.overlap else AgentPolicy)(self.agent, explore=True)
        replay = run.folder / "replay"
        # An episode has one entry more than steps, and none shorter than a window is kept.
        entries = cfg.steps + cfg.steps // cfg.length
        self.replay = Replay(cfg.replay, replay, cfg.length, entries, device)
        self.guard = NaNGuard(run, device)
        self.step = 0
        self.begun: int | None = None  # the step at which learning began
        self.restore()
        for agent in {self.agent, self.actor.agent}:  # not before one is copied from the other
            if runtime.compile:
                compile_regions(agent)
            if device == "cuda" and runtime.graphs:
                agent.capture()
        self.collector = Collector(self.env, self.seed, self.replay.count)
        self.eval_envs = make_vector(run.spec.what, env, cfg.eval_envs)

    def _load(self, pretrained: Path) -> None:
        tensors, about = load_weights(pretrained)
        if self.agent.world.action_free is None:
            raise UserError(f"{pretrained} is for a stacked model, but model.stacked is false")
        if about.get("kind") != "action-free":
            raise UserError(
                f"{pretrained} holds a {about.get('kind')} model, not a pre-trained one"
            )
        load_parts(self.agent.world.pretrained_parts(), tensors, pretrained)

    def save(self) -> None:
        """Checkpoint; only at the end of an episode, where the simulator has no state to keep."""
        self.guard.check()
        optimizers = self.agent.optimizers.items()
        tensors = {"agent": self.agent.state_dict()}
        tensors |= {f"optimizer-{name}": o.state() for name, o in optimizers}
        state = {"begun": self.begun, "updates": self.agent.updates}
        state["control_steps"] = self.control_steps
        state |= {"episodes": self.replay.count, "remembered": self.replay.remembered}
        self.run.checkpoint(self.step, tensors, **state)
        self.replay.prune()

    def restore(self) -> None:
        """Go on from the last checkpoint, or begin with an empty replay."""
        found = self.run.resume()
        if not found:
            self.replay.restore(0, {})
            return
        tensors, state = found
        with self.run.checkpoints.restoring():
            self.replay.restore(state["episodes"], state["remembered"])
            fill(self.agent, tensors["agent"])
            for name, optimizer in self.agent.optimizers.items():
                optimizer.load_state(tensors[f"optimizer-{name}"])
            self.step, self.begun = state["step"], state["begun"]
            self.agent.updates = state["updates"]
            self.env.unwrapped.control_steps = state["control_steps"]

    def update(self, rate: float) -> dict[str, float]:
        """One update; returns figures if this one is logged."""
        i = self.agent.updates
        batch = self.replay.sample(self.seed, i, self.cfg.batch)
        self.actor.sync_weights()
        reseed(self.seed, "update", i)
        figures = {f"train/{name}": x for name, x in self.agent.update(batch).items()}
        self.guard.record(i, figures, batch._asdict())
        if i % self.cfg.log_every:
            return {}
        self.guard.check()
        return self.run.log(self.control_steps, figures, rate)

    @property
    def control_steps(self) -> int:
        """Control steps that the training environment took, also before the run was resumed."""
        return self.env.unwrapped.control_steps

    def evaluate(self, rate: float) -> dict[str, float]:
        """Episodes of the mode policy in environments with seeds of their own."""
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
            large = (np.kron(f, np.ones((4, 4, 1), np.uint8)) for f in outcomes[0].frames)
            encode(self.run.folder / "episode.mp4", large, 15, H264)
        figures = {"eval/return": np.mean([o.return_ for o in outcomes])}
        for name in outcomes[0].costs:
            figures[f"eval/{name}"] = np.mean([o.costs[name] for o in outcomes])
        if outcomes[0].success is not None:
            figures["eval/success"] = np.mean([o.success for o in outcomes])
        return self.run.log(self.control_steps, figures, rate)

    def score(self, episode: int, outcome: Outcome, split: str) -> Score:
        """A row of scores.csv."""
        return Score(
            self.control_steps, episode, outcome.return_, outcome.success, outcome.length, split
        )

    def random_action(self, image: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        """A uniform action of the prefill."""
        rng = np.random.default_rng([self.seed, 0xAC7, self.step])
        return rng.uniform(-1, 1, (1, *self.env.action_space.shape)).astype(np.float32)

    def collect(self, policy: Policy) -> bool:
        """One step of the training environment; whether it ended an episode."""
        collector = self.collector
        reseed(self.seed, "act", self.step)
        action = policy(collector.image[None], np.array([collector.is_first]))[0]
        finished = collector.step(action)
        self.step += 1
        if finished is None:
            return False
        episode, outcome = finished
        self.run.score([self.score(self.replay.count, outcome, "train")])
        self.replay.add(episode)
        return True

    def close(self) -> None:
        """Release the simulators."""
        self.env.close()
        self.eval_envs.close()


def finetune(work: FinetuneLoop) -> None:
    """Learn a task and publish the agent, its scores and a film of an evaluation episode."""
    cfg, run = work.cfg, work.run
    with Progress(total=cfg.steps, start=work.step, label=run.label) as bar:
        show = _shower(bar, work)
        while work.step < cfg.steps:
            ended = work.collect(work.random_action if work.begun is None else work.actor)
            if work.begun is None:
                if ended and work.step >= cfg.prefill:
                    work.begun = work.step
                    for _ in range(cfg.offline_updates):
                        show(work.update(bar.rate))
                    show(work.evaluate(bar.rate))
            else:
                since = work.step - work.begun
                if since % cfg.train_every == 1 % cfg.train_every:
                    show(work.update(bar.rate))
                if since % cfg.eval_every == 0 or work.step == cfg.steps:
                    show(work.evaluate(bar.rate))
            show({})
            if ended and run.due() and work.step < cfg.steps:
                work.save()
    work.close()
    work.guard.check()
    if work.begun is None:
        raise UserError(f"no episode ended within finetune.steps {cfg.steps}; lower env.time_limit")
    about = {"kind": "agent", "steps": cfg.steps, **run.spec.labels}
    save_weights(run.folder, work.agent.state_dict(), about)
    logs = ("metrics.jsonl", "timing.jsonl", "scores.csv")
    run.publish(*logs, "episode.mp4", "weights.safetensors", "weights.json")


def _shower(bar: Progress, work: FinetuneLoop) -> Callable[[dict[str, float]], None]:
    shown = {"train/image": "image", "train/kl": "kl", "eval/return": "return"}

    def show(figures: dict[str, float]) -> None:
        bar.update(work.step, {shown[n]: x for n, x in figures.items() if n in shown})

    return show

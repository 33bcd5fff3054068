"""What one page of the viewer sees: clips beside their predictions, or a dream beside reality.

The page sends messages as JSON; `Session.answer` returns an `Answer`, whose frames the page draws.
"""

import base64
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import gymnasium
import numpy as np
from pydantic import ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as message
from torch import Tensor

from cwm.infra.errors import UserError, explain_validation
from cwm.models import SIZE, AgentModel, Dream, Frames, VideoModel
from cwm.train.environment import EnvConfig, make
from cwm.videos.encode import H264, encode
from cwm.viewer.clips import Clips

LENGTH = 20  # frames of a shown clip
ZOOM = 4  # size of a saved video
STRICT = ConfigDict(extra="forbid")


@message(frozen=True, config=STRICT)
class Own:
    """The context is the last observed frame of the clip."""

    kind: Literal["own"]


@message(frozen=True, config=STRICT)
class OfClip:
    """The context is a frame of another clip."""

    kind: Literal["clip"]
    clip: NonNegativeInt
    frame: NonNegativeInt


@message(frozen=True, config=STRICT)
class Pixels:
    """The context is an image that the page scaled: base64 of 64 x 64 RGB bytes."""

    kind: Literal["pixels"]
    data: str


Context = Annotated[Own | OfClip | Pixels, Field(discriminator="kind")]


@message(frozen=True, config=STRICT)
class ShowClip:
    """Predict a clip after some observed frames, in the appearance of a context frame."""

    do: Literal["clip"]
    clip: NonNegativeInt
    observed: Annotated[int, Field(ge=1, le=LENGTH - 1)]
    context: Context


@message(frozen=True, config=STRICT)
class ShowAttention:
    """A model's attention over the context frame from a position (0..15) in frame `frame`."""

    do: Literal["attention"]
    model: str
    frame: Annotated[int, Field(ge=0, lt=LENGTH)]
    row: Annotated[int, Field(ge=0, lt=16)]
    column: Annotated[int, Field(ge=0, lt=16)]


@message(frozen=True, config=STRICT)
class Reset:
    """Begin an episode of an agent's task; the dream begins at its first frame."""

    do: Literal["reset"]
    agent: str
    seed: Annotated[int, Field(ge=0, lt=2**31)]


@message(frozen=True, config=STRICT)
class Step:
    """Take an action in dream and reality; null: the agent's own, chosen in the dream."""

    do: Literal["step"]
    action: list[Annotated[float, Field(ge=-1, le=1)]] | None
    context: Context


@message(frozen=True, config=STRICT)
class Save:
    """A video of what is shown: the clip with its predictions, or the episode so far."""

    do: Literal["save"]
    what: Literal["clip", "episode"]


MESSAGE: TypeAdapter[Any] = TypeAdapter(
    Annotated[ShowClip | ShowAttention | Reset | Step | Save, Field(discriminator="do")]
)


class Answer(NamedTuple):
    """Facts as JSON, and the bytes of frames or of a video."""

    facts: dict[str, Any]
    body: bytes = b""


@dataclass
class Episode:
    """An episode of an agent: its dream and its environment, and what was seen so far."""

    name: str
    model: AgentModel
    env: gymnasium.Env
    dream: Dream
    first: Frames  # (64, 64, 3)
    rows: list[tuple[Frames, Frames]] = field(default_factory=list)  # dreamed and real frames
    over: bool = False


class Session:
    """The state of one page.

    Args:
        models: pre-trained models by name.
        agents: agents by name, with their task and environment settings.
        clips: what the models predict.
    """

    def __init__(
        self,
        models: dict[str, VideoModel],
        agents: dict[str, tuple[AgentModel, str, EnvConfig]],
        clips: Clips,
    ) -> None:
        self.models, self.agents, self.clips = models, agents, clips
        self.features: dict[str, Tensor] = {}  # of the shown clip
        self.shown: tuple[int, int] | None = None  # its number and its observed frames
        self.rows: list[Frames] = []
        self.context: Frames | None = None
        self.episode: Episode | None = None

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the page can choose from."""
        return {
            "models": {name: model.attends for name, model in self.models.items()},
            "clips": self.clips.names,
            "length": LENGTH,
            "agents": {name: agent.action_dim for name, (agent, _, _) in self.agents.items()},
        }

    def answer(self, text: str) -> Answer:
        """Answer a message; UserError for one that is malformed or asks for what does not exist."""
        try:
            asked = MESSAGE.validate_json(text)
        except ValidationError as error:
            raise UserError(explain_validation("message", error)) from None
        match asked:
            case ShowClip():
                return self.show(asked)
            case ShowAttention():
                return self.attention(asked)
            case Reset():
                return self.reset(asked)
            case Step():
                return self.step(asked)
        return self.save(asked)

    def show(self, asked: ShowClip) -> Answer:
        """Frames of the clip, of each model's prediction, and the context frame."""
        truth = self._clip(asked.clip)
        if self.shown != (asked.clip, asked.observed):
            observed = truth[None, : asked.observed]
            self.features = {n: m.rollout(observed, LENGTH) for n, m in self.models.items()}
            self.shown = asked.clip, asked.observed
        self.context = self._context(asked.context, truth[asked.observed - 1])
        predicted = [
            model.decode(self.features[name], self.context[None])[0]
            for name, model in self.models.items()
        ]
        self.rows = [truth, *predicted]
        facts = {"do": "clip", "clip": asked.clip, "observed": asked.observed}
        return Answer(facts, np.concatenate([*self.rows, self.context[None]]).tobytes())

    def attention(self, asked: ShowAttention) -> Answer:
        """Attention over the context frame, 256 weights in row-major order."""
        if asked.model not in self.models:
            raise UserError(f"there is no model {asked.model!r}")
        if self.context is None:
            raise UserError("no clip is shown")
        features = self.features[asked.model][:, asked.frame : asked.frame + 1]
        weights = self.models[asked.model].attention(features, self.context[None])
        found = weights[0, 0, 16 * asked.row + asked.column]
        return Answer({"do": "attention", "weights": found.tolist()})

    def reset(self, asked: Reset) -> Answer:
        """Begin an episode."""
        if asked.agent not in self.agents:
            raise UserError(f"there is no agent {asked.agent!r}")
        model, task, cfg = self.agents[asked.agent]
        if self.episode is None or self.episode.name != asked.agent:
            self.close()
            env = make(task, cfg)
        else:
            env = self.episode.env
        first, _ = env.reset(seed=asked.seed)
        self.episode = Episode(asked.agent, model, env, model.dream(first[None, None]), first)
        return Answer({"do": "reset", "task": task}, first.tobytes() * 2)

    def step(self, asked: Step) -> Answer:
        """Frames and rewards of dream and reality after an action."""
        episode = self.episode
        if episode is None or episode.over:
            raise UserError("the episode is over: begin a new one")
        model, dream = episode.model, episode.dream
        given = asked.action
        action = dream.act()[0] if given is None else np.asarray(given, np.float32)
        if action.shape != (model.action_dim,):
            raise UserError(f"{len(action)} numbers for {model.action_dim} actions")
        context = self._context(asked.context, episode.first)
        features = dream.advance(action[None])
        dreamed = model.decode(features[:, None], context[None])[0, 0]
        real, reward, terminated, truncated, _ = episode.env.step(action)
        episode.over = bool(terminated or truncated)
        episode.rows.append((dreamed, real))
        facts = {
            "do": "step",
            "action": action.tolist(),
            "reward": [float(model.rewards(features)[0]), float(reward)],
            "over": episode.over,
            "steps": len(episode.rows),
        }
        return Answer(facts, dreamed.tobytes() + real.tobytes())

    def save(self, asked: Save) -> Answer:
        """An .mp4 of the rows side by side."""
        sides: Iterable[Sequence[Frames]] = zip(*self.rows, strict=True)
        if asked.what == "episode":
            sides = self.episode.rows if self.episode else []
        frames = [np.concatenate(side, 1) for side in sides]
        if not frames:
            raise UserError("there is nothing to save yet")
        zoomed = (np.kron(frame, np.ones((ZOOM, ZOOM, 1), np.uint8)) for frame in frames)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "film.mp4")
            encode(path, zoomed, 10, H264)
            return Answer({"do": "save", "name": f"cwm-{asked.what}.mp4"}, path.read_bytes())

    def close(self) -> None:
        """Close the environment."""
        if self.episode is not None:
            self.episode.env.close()
            self.episode = None

    def _clip(self, number: int) -> Frames:
        if number >= len(self.clips.names):
            raise UserError(f"there is no clip {number}; there are {len(self.clips.names)}")
        return self.clips.frames(number)

    def _context(self, asked: Own | OfClip | Pixels, own: Frames) -> Frames:
        """The context frame, (64, 64, 3)."""
        match asked:
            case Own():
                return own
            case OfClip():
                frames = self._clip(asked.clip)
                if asked.frame >= len(frames):
                    raise UserError(f"clip {asked.clip} has {len(frames)} frames")
                return frames[asked.frame]
        try:
            data = base64.b64decode(asked.data, validate=True)
        except ValueError as error:
            raise UserError(f"the context image is not base64: {error}") from None
        if len(data) != SIZE * SIZE * 3:
            raise UserError(f"the context image has {len(data)} bytes, not {SIZE * SIZE * 3}")
        return np.frombuffer(data, np.uint8).reshape(SIZE, SIZE, 3)

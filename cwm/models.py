"""Trained models for use in Python: arrays in, arrays out.

    import cwm
    model = cwm.load("results/laptop/pretrain/something/contextwm/0")
    frames = model.predict(clip[:, :5], length=20)

Frames are uint8 (B, T, 64, 64, 3). Latents are the modes of their distributions unless a method is
given a seed, so results are reproducible.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwm.agent import Agent
from cwm.config import Config
from cwm.config import load as load_settings
from cwm.hub import PREFIX, resolve
from cwm.infra.checkpoint import load_parts, load_weights
from cwm.infra.device import seed_from
from cwm.infra.errors import UserError
from cwm.infra.source import INSTALLED, ROOT, TEMPLATE
from cwm.nn.decoder import ResNetDecoder
from cwm.nn.rssm import State
from cwm.world.action_free import ActionFreeModel
from cwm.world.openloop import attention
from cwm.world.stacked import BeliefState, StackedModel
from cwm.world.vision import RandomInputs, Vision

Frames = NDArray[np.uint8]
SIZE = 64
PUBLISHED = (TEMPLATE if INSTALLED else ROOT) / "results/published/evidence"  # trained models
OBSERVED, LOWER, DREAMED = 0, 1, 2  # streams of noise; each dreamed step has one of its own


class _Model:
    """Base class of pre-trained models and agents: frames, noise and the decoder."""

    vision: Vision

    def __init__(self, about: dict[str, Any], settings: Config, device: str) -> None:
        self.about = about  # content of weights.json
        self.settings = settings
        self.device = device

    def _pixels(self, frames: Frames, what: str = "frames") -> Tensor:
        shape = np.shape(frames)
        if np.asarray(frames).dtype != np.uint8 or shape[2:] != (SIZE, SIZE, 3):
            given = f"{np.asarray(frames).dtype} {shape}"
            raise UserError(f"{what} are {given}; they must be uint8 (B, T, 64, 64, 3)")
        if 0 in shape:
            raise UserError(f"{what} are empty: {shape}")
        return self.vision.pixels(torch.tensor(np.asarray(frames), device=self.device))

    def _noise(self, seed: int | None, stream: int, batch: int, length: int) -> Tensor:
        """Gumbel noise (B, T, S, K), independent for each seed and stream; None gives the modes."""
        rssm = self.settings.model.rssm
        shape = (batch, length, rssm.stoch, rssm.classes)
        if seed is None:
            return torch.zeros(shape, device=self.device)
        noise = np.random.default_rng([seed, stream]).gumbel(size=shape)
        return torch.as_tensor(noise, dtype=torch.float32).to(self.device)

    @torch.no_grad()
    def decode(self, features: Tensor, context: Frames) -> Frames:
        """Decode features (B, T, F) with context frames (B, 64, 64, 3) to (B, T, 64, 64, 3).

        A plain model ignores the context frames.
        """
        image = (self.vision.decoder(features, self._context(features, context)) + 0.5).clamp(0, 1)
        return (image.movedim(-3, -1).float() * 255).round().byte().cpu().numpy()

    def _context(self, features: Tensor, context: Frames) -> dict[int, Tensor] | None:
        frame = self._pixels(np.asarray(context)[:, None], "context frames")
        if len(frame) != len(features):
            raise UserError(f"{len(frame)} context frames for {len(features)} clips")
        index = torch.zeros(len(frame), dtype=torch.long, device=self.device)
        return self.vision.encode_context(frame, index)


class VideoModel(_Model):
    """A pre-trained world model: it predicts video and knows no actions."""

    def __init__(self, world: ActionFreeModel, *args: Any) -> None:
        super().__init__(*args)
        self.world, self.vision = world, world.vision

    def reconstruct(
        self, frames: Frames, context: Frames | None = None, seed: int | None = None
    ) -> Frames:
        """Encode clips (B, T, 64, 64, 3) and decode them again, to the same shape.

        context: frames (B, 64, 64, 3) that give the appearance; by default the last of each clip.
        """
        if np.ndim(frames) != 5:
            raise UserError(f"frames are {np.shape(frames)}; they must be (B, T, 64, 64, 3)")
        return self.predict(frames, np.shape(frames)[1], context, seed)

    def predict(
        self,
        frames: Frames,
        length: int,
        context: Frames | None = None,
        seed: int | None = None,
    ) -> Frames:
        """Observe clips (B, T, 64, 64, 3), then predict open loop up to `length` frames in all.

        Returns (B, length, 64, 64, 3): T reconstructed frames and length - T predicted ones. For
        `context` see `reconstruct`.
        """
        features = self.rollout(frames, length, seed)
        return self.decode(features, frames[:, -1] if context is None else context)

    @torch.no_grad()
    def rollout(self, frames: Frames, length: int, seed: int | None = None) -> Tensor:
        """The features (B, length, F) that `predict` decodes."""
        pixels = self._pixels(frames)
        observed = pixels.shape[1]
        if length < observed:
            raise UserError(f"length {length} is less than the {observed} frames observed")
        noise = self._noise(seed, OBSERVED, len(pixels), length)
        post = self._observe(pixels, noise[:, :observed])
        state, feats = post.step(-1), [post.feat]
        no_action = pixels.new_zeros(len(pixels), 0)
        for t in range(observed, length):
            state = self.world.rssm.imagine_step(state, no_action, noise[:, t])
            feats.append(state.feat[:, None])
        return torch.cat(feats, 1)

    @property
    def attends(self) -> bool:
        """Whether the decoder has cross-attention over a context frame."""
        return isinstance(self.vision.decoder, ResNetDecoder) and bool(
            self.vision.decoder.attention
        )

    @torch.no_grad()
    def attention(self, features: Tensor, context: Frames) -> NDArray[np.float32]:
        """Attention over the context frames when features (B, T, F) are decoded, at 16 x 16.

        Returns (B, T, 256, 256): rows are positions in the decoded frame, columns positions in the
        context frame (B, 64, 64, 3); a row sums to 1. UserError without cross-attention.
        """
        decoder, encoded = self.vision.decoder, self._context(features, context)
        if encoded is None or not isinstance(decoder, ResNetDecoder) or not decoder.attention:
            raise UserError("this model has no cross-attention over a context frame")
        return attention(decoder, features, encoded).float().cpu().numpy()

    @torch.no_grad()
    def _observe(self, pixels: Tensor, noise: Tensor) -> State:
        embed = self.vision.embed(pixels)
        start = self.world.rssm.initial(len(embed), embed)
        return self.world.rssm.observe(embed, None, _first(pixels), start, noise)[0]


class ActionModel(_Model):
    """A world model with actions and a reward predictor, without a policy."""

    def __init__(self, world: StackedModel, *args: Any) -> None:
        super().__init__(*args)
        self.world, self.vision, self.action_dim = world, world.vision, world.action_dim

    def reconstruct(
        self,
        frames: Frames,
        actions: NDArray[np.float32],
        context: Frames | None = None,
        seed: int | None = None,
    ) -> Frames:
        """Encode clips (B, T, 64, 64, 3) and decode them again, to the same shape.

        actions: (B, T - 1, A); `actions[:, t]` led from frame t to frame t + 1. context: frames
        (B, 64, 64, 3) that give the appearance; by default the last of each clip.
        """
        features = self._observe(self._pixels(frames), actions, seed).feat
        return self.decode(features, frames[:, -1] if context is None else context)

    def imagine(
        self,
        frames: Frames,
        past: NDArray[np.float32],
        actions: NDArray[np.float32],
        context: Frames | None = None,
        seed: int | None = None,
    ) -> tuple[Frames, NDArray[np.float32]]:
        """Observe clips (B, T, 64, 64, 3), then imagine what H actions lead to.

        past: (B, T - 1, A), the actions between the frames. actions: (B, H, A). Returns frames
        (B, H, 64, 64, 3) and predicted rewards (B, H). For `context` see `reconstruct`.
        """
        dream = self.dream(frames, past, seed)
        features = torch.stack([dream.advance(a) for a in np.moveaxis(actions, 1, 0)], 1)
        context = frames[:, -1] if context is None else context
        return self.decode(features, context), self.rewards(features)

    def dream(
        self,
        frames: Frames,
        past: NDArray[np.float32] | None = None,
        seed: int | None = None,
    ) -> "Dream":
        """Observe clips (B, T, 64, 64, 3), and go on from there one action at a time.

        past: (B, T - 1, A), the actions between the frames; needed if there are several.
        """
        pixels = self._pixels(frames)
        if past is None:
            past = np.zeros((len(pixels), 0, self.action_dim), np.float32)
        state = self._observe(pixels, past, seed).step(-1)
        return Dream(self, state, seed)

    @torch.no_grad()
    def rewards(self, features: Tensor) -> NDArray[np.float32]:
        """Predicted rewards (...) of features (..., F).

        The reward predictor that learned no bonus predicts them if the agent has one.
        """
        auxiliary = self.world.aux_reward
        head = self.world.reward if auxiliary is None else auxiliary
        return head(features)[0].squeeze(-1).float().cpu().numpy()

    def _actions(self, actions: NDArray[np.float32], batch: int) -> Tensor:
        values = np.asarray(actions, np.float32)
        if values.ndim != 3 or values.shape[0] != batch or values.shape[2] != self.action_dim:
            needed = f"({batch}, steps, {self.action_dim})"
            raise UserError(f"actions are {values.shape}; they must be {needed}")
        if not (np.abs(values) <= 1).all():
            raise UserError("actions must be finite and within [-1, 1]")
        return torch.as_tensor(values).to(self.device)

    @torch.no_grad()
    def _observe(self, pixels: Tensor, past: NDArray[np.float32], seed: int | None) -> State:
        batch, length = pixels.shape[:2]
        action = self._actions(past, batch)
        if action.shape[1] != length - 1:
            raise UserError(f"{length} frames need {length - 1} actions, not {action.shape[1]}")
        action = torch.cat([action.new_zeros(batch, 1, self.action_dim), action], 1)
        lower, upper = (self._noise(seed, s, batch, length) for s in (LOWER, OBSERVED))
        embed = self.vision.embed(pixels)
        random = RandomInputs(gumbel_free=lower, gumbel=upper)
        return self.world.observe(embed, action, _first(pixels), None, random)[2]


class AgentModel(ActionModel):
    """A fine-tuned agent: a world model with actions, a reward predictor and a policy."""

    def __init__(self, agent: Agent, *args: Any) -> None:
        super().__init__(agent.world, *args)
        self.agent = agent
        self.reset()

    def reset(self) -> None:
        """Forget all observations; the next call of `act` begins an episode."""
        self._belief: BeliefState | None = None
        self._steps = 0

    def act(self, image: Frames, seed: int | None = None) -> NDArray[np.float32]:
        """Actions (B, A) in [-1, 1] for the next images (B, 64, 64, 3) of B episodes.

        The agent remembers earlier images until `reset`. Without a seed it takes the most likely
        action, with a seed a sampled one. Latents are sampled in either case, as in training.
        """
        if np.asarray(image).dtype != np.uint8 or np.shape(image)[1:] != (SIZE, SIZE, 3):
            raise UserError(f"images are {np.shape(image)}; they must be uint8 (B, 64, 64, 3)")
        if self._belief is not None and len(self._belief.action) != len(image):
            raise UserError(
                f"{len(image)} images after {len(self._belief.action)}; call reset() first"
            )
        first = np.full(len(image), self._belief is None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_from("act", seed or 0, self._steps))
            action, self._belief = self.agent.act(
                np.asarray(image), first, self._belief, explore=seed is not None
            )
        self._steps += 1
        return action


class Dream:
    """An imagined trajectory of a world model, from B states, one step at a time."""

    def __init__(self, model: ActionModel, state: State, seed: int | None) -> None:
        self.model, self.state, self.seed, self.step = model, state, seed, 0

    @torch.no_grad()
    def advance(self, action: NDArray[np.float32]) -> Tensor:
        """Features (B, F) after actions (B, A); `decode` and `rewards` of the model read them."""
        chosen = self.model._actions(np.asarray(action)[:, None], len(self.state.deter))[:, 0]
        noise = self.model._noise(self.seed, DREAMED + self.step, len(chosen), 1)[:, 0]
        self.step += 1
        self.state = self.model.world.rssm.imagine_step(self.state, chosen, noise)
        return self.state.feat

    @torch.no_grad()
    def act(self) -> NDArray[np.float32]:
        """The agent's most likely actions (B, A) in the present imagined states."""
        if not isinstance(self.model, AgentModel):
            raise UserError("this model has no policy: it was trained on recorded episodes")
        return self.model.agent.behavior.policy(self.state.feat).mode().float().cpu().numpy()


def load(place: str | Path, device: str = "cpu") -> VideoModel | ActionModel:
    """Load a trained model, ready for use.

    Args:
        place: the folder of a finished run, its weights.json, or `hf://owner/name`, optionally
            with `@revision`. The config.yaml beside the weights gives the settings of the model.
        device: `cpu` or `cuda`.

    Raises:
        UserError: there is no model at `place`, a file is damaged, or the weights do not fit the
            settings.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device is {device}, but torch finds no CUDA device; use cpu")
    index = resolve(str(place)) if str(place).startswith(PREFIX) else Path(place)
    index = index / "weights.json" if index.is_dir() else index
    if not index.is_file():
        raise UserError(f"no model in {place}: it has no weights.json")
    tensors, about = load_weights(index)
    settings = load_settings([index.with_name("config.yaml")])
    if about.get("kind") == "action-free":
        world = ActionFreeModel(settings.model, settings.pretrain.world).to(device).eval()
        load_parts({"vision": world.vision, "rssm": world.rssm}, tensors, index)
        return VideoModel(world, about, settings, device)
    if about.get("kind") == "action-conditional":
        if not isinstance(size := about.get("action_size"), int) or size < 1:
            raise UserError(f"{index}: action_size is {size!r}, not a number of values")
        upper = StackedModel(settings.model, settings.finetune.agent.world, size).to(device).eval()
        load_parts({"world": upper}, tensors, index)
        return ActionModel(upper, about, settings, device)
    if about.get("kind") != "agent":
        raise UserError(f"{index} holds a model of unknown kind {about.get('kind')!r}")
    bias = tensors.get("behavior.actor.out.0.bias")
    if bias is None:
        raise UserError(f"{index} holds no agent: it has no actor")
    actions = len(bias)
    agent = Agent(settings.model, settings.finetune.agent, actions, settings.runtime.precision)
    agent.to(device).eval()
    parts = {name: getattr(agent, name) for name in ("world", "behavior")}
    load_parts(parts | ({"bonus": agent.bonus} if agent.bonus else {}), tensors, index)
    return AgentModel(agent, about, settings, device)


def _first(pixels: Tensor) -> Tensor:
    first = pixels.new_zeros(pixels.shape[:2])
    first[:, 0] = 1
    return first

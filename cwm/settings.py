"""All settings and their defaults, which are the paper's values.

`cwm.config` reads them from YAML files. Those of a dataset are in `cwm.videos.datasets`, and those
of an environment in `cwm.train.environment`. No module with settings imports PyTorch, so Snakemake
and the commands that handle videos start faster.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]
Choice = Literal["random", "first", "last"]
Fusion = Literal["attention", "concat"]
Augment = Literal["none", "erasing", "shift", "flip", "scale"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RuntimeConfig:
    """Where and how a run computes. Part of the run key: the thread count changes the last bits."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU if there is one
    precision: Literal["bf16", "fp32"] = "bf16"  # of the networks' forward passes
    threads: PositiveInt = 1  # on a CPU
    deterministic: bool = False  # on a GPU: bit-identical results every time, but slower
    graphs: bool = True  # on a GPU: capture an update, or an action, as one CUDA graph
    compile: bool = False  # fuse small operations; the first start takes minutes longer


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class VisionConfig:
    """Encoder and decoder of the images."""

    network: Literal["resnet", "cnn"] = "resnet"  # cnn: DreamerV2's
    depth: PositiveInt = 48  # channels of the first stage; each further stage doubles them
    layers: PositiveInt = 2  # residual layers in a stage


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ContextConfig:
    """How the context frame is chosen and how the decoder reads it."""

    choice: Choice = "random"  # which frame of a clip is the context
    fusion: Fusion = "attention"  # concat: concatenate all features instead of attending
    masked: Fraction = 0.75  # of context tokens, for each decoded frame in training
    dropout: Fraction = 0.1  # of the cross-attention
    heads: PositiveInt = 4  # of the cross-attention
    # `learned`: positions that start at zero, added to queries, keys and values (official).
    # `sinusoidal`: positions that start as sinusoids, added to queries and keys, whose projections
    # start equal and orthogonal, so a query attends to its own place before training. What the
    # attention adds starts at zero, so latents are used before the context is.
    positions: Literal["learned", "sinusoidal"] = "learned"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RSSMConfig:
    """Sizes of one recurrent state-space model."""

    deter: PositiveInt = 1024  # recurrent state
    stoch: PositiveInt = 32  # categorical variables
    classes: PositiveInt = 32  # values of each
    hidden: PositiveInt = 1024  # units of a hidden layer
    action_pad: NonNegativeInt = 50  # width to which actions are zero-padded; 0: no padding

    @property
    def features(self) -> int:
        """Width of `State.feat`."""
        return self.stoch * self.classes + self.deter


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ModelConfig:
    """The architecture, shared by pre-training and fine-tuning."""

    vision: VisionConfig = VisionConfig()
    context: ContextConfig | None = ContextConfig()  # null: the plain world model
    rssm: RSSMConfig = RSSMConfig()
    stacked: bool = True  # false: DreamerV2, one action-conditional RSSM without pre-training


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OptimizerConfig:
    """Adam; reference `core/torch_utils.py`."""

    lr: NonNegativeFloat = 3e-4  # learning rate
    eps: PositiveFloat = 1e-5  # of Adam's denominator
    clip: PositiveFloat = 100.0  # of the norm of all gradients together, before weight decay
    weight_decay: NonNegativeFloat = 1e-6  # added to the gradient (coupled), for every parameter


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class KLConfig:
    """KL balancing (DreamerV2, section 2.2)."""

    balance: Share = 0.8  # weight of the term that trains the prior
    free: NonNegativeFloat = 0.0  # nats below which a term has no gradient


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ActionFreeConfig:
    """The pre-training loss: image + kl_weight * kl."""

    kl: KLConfig = KLConfig()
    kl_weight: NonNegativeFloat = 1.0  # relative to the image


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PretrainConfig:
    """Pre-training of the action-free model."""

    world: ActionFreeConfig = ActionFreeConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    updates: PositiveInt = 1_200_000  # of the whole run
    batch: PositiveInt = 16  # clips in an update
    length: AtLeastTwo = 25  # the evaluation predicts the second half from the first
    seed: NonNegativeInt = 0  # of weights, batches and noise
    log_every: PositiveInt = 100  # updates
    heldout_every: PositiveInt = 5000  # updates between evaluations on held-out clips
    heldout_clips: PositiveInt = 64  # in an evaluation
    checkpoint_seconds: NonNegativeFloat = 300.0  # between two checkpoints
    # Processes that share each batch. They change results only by rounding, so a run may be resumed
    # with another number; they are not part of its key.
    devices: PositiveInt = 1  # on each node, each process on a GPU, or `runtime.threads` cores
    nodes: PositiveInt = 1  # machines; more than one needs SLURM, see docs/cluster.md


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MLPConfig:
    """Size of a reward head, the actor or the critic."""

    layers: NonNegativeInt = 4  # hidden ones
    units: PositiveInt = 400  # in a layer


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LossWeights:
    """Weights of the fine-tuning loss."""

    image: NonNegativeFloat = 1.0  # squared error of the images
    kl: NonNegativeFloat = 1.0  # of the action-conditional model
    reward: NonNegativeFloat = 1.0  # behavioural reward predictor
    aux_reward: NonNegativeFloat = 0.0  # representative reward predictor; 0: none. ContextWM: 1
    action_free_kl: NonNegativeFloat = 0.0  # KL of the action-free model; official code: 0


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class StackedConfig:
    """Loss and reward heads of the world model in fine-tuning."""

    kl: KLConfig = KLConfig()
    weights: LossWeights = LossWeights()
    concat_embed: bool = False  # the upper model also observes the embedding
    context_augment: Augment = "none"  # of the context frame in training
    head: MLPConfig = MLPConfig()


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BehaviorConfig:
    """Actor and critic, trained in imagination."""

    actor: MLPConfig = MLPConfig()
    critic: MLPConfig = MLPConfig()
    horizon: PositiveInt = 15  # imagined steps
    discount: Share = 0.99  # of a step
    lambda_: Share = 0.95  # of the lambda return
    entropy: NonNegativeFloat = 1e-4  # weight of the actor's entropy
    target_every: PositiveInt = 100  # updates between copies of the critic to its slow target
    reward_momentum: Share = 1.0  # of the running reward magnitude; 1: no normalisation


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BonusConfig:
    """The behaviour learns from reward + beta * bonus; beta 0: no bonus."""

    beta: NonNegativeFloat = 1.0  # weight of the bonus
    kind: Literal["abs", "rel"] = "abs"  # rel: beta times the running magnitude of rewards
    window: PositiveInt = 5  # consecutive features that are averaged to represent a clip
    neighbours: PositiveInt = 16  # whose mean distance is the bonus
    queue: PositiveInt = 4096  # latest clips that are kept
    width: PositiveInt = 128  # of the random projection
    momentum: Share = 0.99  # of the running magnitudes of bonus and reward


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AgentConfig:
    """Losses and optimizers of fine-tuning."""

    world: StackedConfig = StackedConfig()
    behavior: BehaviorConfig = BehaviorConfig()
    bonus: BonusConfig = BonusConfig()
    world_optimizer: OptimizerConfig = OptimizerConfig()
    # Of the encoder, the context encoder and the action-free RSSM:
    encoder_optimizer: OptimizerConfig = OptimizerConfig()
    actor_optimizer: OptimizerConfig = OptimizerConfig(lr=8e-5)
    critic_optimizer: OptimizerConfig = OptimizerConfig(lr=8e-5)
    encoder_frozen: NonNegativeInt = 0  # first updates with rate 0 in encoder_optimizer


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReplayConfig:
    """Size and sampling of the replay buffer."""

    capacity: PositiveInt = 1_000_000  # frames; the oldest episodes are dropped
    prioritize_ends: bool = False  # sample the last window of an episode more often


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FinetuneConfig:
    """Fine-tuning on one task; config/suite/ has what differs between suites."""

    agent: AgentConfig = AgentConfig()
    replay: ReplayConfig = ReplayConfig()
    steps: PositiveInt = 255_000  # agent steps
    # Steps of random actions, rounded up to whole episodes; in addition to those of `--recorded`
    prefill: NonNegativeInt = 5000
    offline_updates: NonNegativeInt = 100  # updates before the agent acts
    train_every: PositiveInt = 5  # steps between updates
    overlap: bool = False  # act during an update, with the weights before it
    batch: PositiveInt = 50  # windows in an update
    length: PositiveInt = 50  # steps of a window
    eval_every: PositiveInt = 10_000  # agent steps
    eval_episodes: PositiveInt = 10  # in an evaluation
    eval_envs: PositiveInt = 1  # evaluation episodes that run in parallel
    log_every: PositiveInt = 100  # updates
    checkpoint_seconds: NonNegativeFloat = 300.0  # between two checkpoints


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AdaptConfig:
    """Adaptation on recorded episodes; `finetune.agent` has the losses and optimizers."""

    updates: PositiveInt = 100_000  # of the whole run
    batch: PositiveInt = 50  # windows in an update
    length: AtLeastTwo = 50  # steps of a window
    log_every: PositiveInt = 100  # updates
    heldout_every: PositiveInt = 5000  # updates between evaluations on held-out windows
    heldout_clips: AtLeastTwo = 64  # held-out windows, each of another episode; at most
    observed: PositiveInt = 5  # frames that the model observes before it predicts
    checkpoint_seconds: NonNegativeFloat = 300.0  # between two checkpoints


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PredictConfig:
    """Video prediction on held-out clips."""

    clips: PositiveInt = 64  # maximum number of clips
    length: PositiveInt = 25  # frames of a clip
    observed: PositiveInt = 5  # frames that the model observes before it predicts
    shown: PositiveInt = 4  # clips stored as images


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RepresentConfig:
    """Clips whose features are compared."""

    labels: tuple[str, str] = ("pushing.*left.to.right", "pushing.*right.to.left")  # regexps
    clips: PositiveInt = 400  # maximum for each label and split
    length: PositiveInt = 25  # frames, taken from the middle of the clip


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class InvarianceConfig:
    """Shadow pairs whose latents are compared."""

    length: PositiveInt = 25  # frames, taken from the middle of the clip


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BaselinesConfig:
    """Number of baseline episodes and agents."""

    episodes: PositiveInt = 20  # of the random and constant policies and each untrained agent
    untrained: NonNegativeInt = 5  # number of untrained agents
    trials: NonNegativeInt = 5  # episodes to choose the best constant action; 0: skip that policy
    envs: PositiveInt = 1  # episodes that run in parallel

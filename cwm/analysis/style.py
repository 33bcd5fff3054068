"""One look for all figures: names, colours, order, sizes and fonts.

Colours are Okabe and Ito's, told apart with any colour vision; the methods' also differ in
lightness, and dashes and markers repeat what colour says, so a grey print reads too.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

WIDTH = 5.5  # inches, the text column of the paper
GREY = "#707070"
RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType, embedded: text stays text, and journals accept it
    "savefig.dpi": 200,
}

MODELS = {
    "contextwm": ("ContextWM", "#0072B2"),
    "plain": ("Plain WM", "#E69F00"),
    "dreamer": ("DreamerV2", "#1A1A1A"),
}
SPARE_COLOURS = ("#CC79A7", "#009E73", "#56B4E9", "#D55E00")
DATASETS = {
    "something": "-",
    "human36m": (0, (4, 1)),
    "youtube-driving": ":",
    "mixture": (0, (5, 1, 1, 1, 1, 1)),
    "rlbench": "-.",
    "none": "--",
}
SPARE_DASHES = ((0, (1, 2)), (0, (8, 2)), (0, (3, 3, 1, 3)))
MARKERS = ("o", "^", "s", "v", "D", "P")
POLICIES = {
    "random": ("Random policy", ":"),
    "untrained": ("Untrained agent", "-."),
    "constant": ("Best constant action", (0, (6, 2))),
}


class Method(NamedTuple):
    """What one curve, dot or bar stands for; a baseline policy has empty other fields."""

    policy: str
    model: str
    dataset: str
    variant: str

    @property
    def source(self) -> str:
        """What it was pre-trained on, and its variant: a row of the domain table."""
        dataset = "none (scratch)" if self.dataset == "none" else self.dataset
        return (
            dataset
            if self.variant == "standard"
            else f"{dataset}, {self.variant.replace('-', ' ')}"
        )

    @property
    def label(self) -> str:
        """The method's name in figures and tables."""
        if self.policy != "agent":
            return POLICIES[self.policy][0]
        if self.model == "dreamer" and self.source == "none (scratch)":
            return model_label(self.model)  # never pre-trained: nothing to tell apart
        return f"{model_label(self.model)}, {self.source}"


@dataclass(frozen=True)
class Look:
    """How one method is drawn; the marker of a method trained from scratch is hollow."""

    colour: str
    dash: str | tuple
    marker: str
    fill: str


def model_label(model: str) -> str:
    """The model's name in figures: `plain-small` is "Plain WM, small", an unknown one its own."""
    family, _, change = model.partition("-")
    if family not in MODELS:
        return model
    return MODELS[family][0] + (f", {change.replace('-', ' ')}" if change else "")


def in_order(methods: Iterable[Method]) -> list[Method]:
    """Ours first, then plain, then others; the pre-trained before scratch; baselines last."""

    def rank(method: Method) -> tuple:
        return (
            method.policy != "agent",
            _place(method.policy, POLICIES),
            _place(method.model.partition("-")[0], MODELS),
            method.model,
            method.dataset == "none",
            _place(method.dataset, DATASETS),
            method.variant != "standard",
            method.variant,
        )

    return sorted(methods, key=rank)


def looks(methods: Iterable[Method]) -> dict[Method, Look]:
    """Colour by model, dash by dataset, marker by variant; the unnamed share the spare ones."""
    agents = [method for method in in_order(methods) if method.policy == "agent"]
    colours = {name: colour for name, (_, colour) in MODELS.items()}
    colours |= _spread({m.model for m in agents} - MODELS.keys(), SPARE_COLOURS)
    dashes = DATASETS | _spread({m.dataset for m in agents} - DATASETS.keys(), SPARE_DASHES)
    variants = {m.variant for m in agents} - {"standard"}
    markers = {"standard": MARKERS[0]} | _spread(variants, MARKERS[1:])
    return {
        m: Look(
            colour=colours[m.model],
            dash=dashes[m.dataset],
            marker=markers[m.variant],
            fill="white" if m.dataset == "none" else colours[m.model],
        )
        for m in agents
    }


def scale_words(scale: str) -> str:
    """What a caption must say about the scale."""
    match scale:
        case "paper":
            return "Scale: paper."
        case "evidence":
            return "Scale: evidence, smaller than the paper's."
        case _:
            return f"Scale: {scale}, too small for claims about the paper."


def _place(name: str, order: Iterable[str]) -> tuple[int, str]:
    names = list(order)
    return (names.index(name) if name in names else len(names), name)


def _spread(names: Iterable[str], values: tuple) -> dict:
    return {name: values[i % len(values)] for i, name in enumerate(sorted(names))}

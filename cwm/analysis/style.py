"""The style of all figures: names, colours, order, sizes and fonts.

The colours are Okabe and Ito's, which are distinguishable with any colour vision. The models'
colours also differ in lightness, and dashes and markers repeat the information for grey prints.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

WIDTH = 5.5  # inches, the text width of the paper
GREY = "#707070"
RC: dict[Any, Any] = {  # matplotlib types the keys as a literal of all its settings
    "font.family": "DejaVu Sans",  # ships with matplotlib, so every machine draws the same
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
    "pdf.fonttype": 42,  # embed TrueType fonts, which keeps text selectable
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
    """What one curve, dot or bar shows. For a baseline policy only `policy` is not empty."""

    policy: str
    model: str
    dataset: str
    variant: str

    @property
    def source(self) -> str:
        """Pre-training data and variant, a row of the domain table."""
        dataset = "none (scratch)" if self.dataset == "none" else self.dataset
        if self.variant == "standard":
            return dataset
        return f"{dataset}, {self.variant.replace('-', ' ')}"

    @property
    def label(self) -> str:
        """Name of the method in figures and tables."""
        if self.policy != "agent":
            return POLICIES[self.policy][0]
        if self.model == "dreamer" and self.source == "none (scratch)":
            return model_label(self.model)  # DreamerV2 is never pre-trained
        return f"{model_label(self.model)}, {self.source}"


@dataclass(frozen=True)
class LineStyle:
    """Colour, dash and marker of a method; without pre-training the marker is hollow."""

    colour: str
    dash: str | tuple
    marker: str
    fill: str


def model_label(model: str) -> str:
    """Display name: `plain-small` becomes "Plain WM, small"; unknown models keep their name."""
    family, _, change = model.partition("-")
    if family not in MODELS:
        return model
    return MODELS[family][0] + (f", {change.replace('-', ' ')}" if change else "")


def legend_order(methods: Iterable[Method]) -> list[Method]:
    """Sort by model (ContextWM first), dataset (scratch last) and variant; baselines last."""

    def rank(method: Method) -> tuple:
        return (
            method.policy != "agent",
            _position(method.policy, POLICIES),
            _position(method.model.partition("-")[0], MODELS),
            method.model,
            method.dataset == "none",
            _position(method.dataset, DATASETS),
            method.variant != "standard",
            method.variant,
        )

    return sorted(methods, key=rank)


def line_styles(methods: Iterable[Method]) -> dict[Method, LineStyle]:
    """Agents' styles: colour by model, dash by dataset, marker by variant."""
    agents = [method for method in legend_order(methods) if method.policy == "agent"]
    colours = {name: colour for name, (_, colour) in MODELS.items()}
    colours |= _assign({m.model for m in agents} - MODELS.keys(), SPARE_COLOURS)
    dashes = DATASETS | _assign({m.dataset for m in agents} - DATASETS.keys(), SPARE_DASHES)
    variants = {m.variant for m in agents} - {"standard"}
    markers = {"standard": MARKERS[0]} | _assign(variants, MARKERS[1:])
    return {
        m: LineStyle(
            colour=colours[m.model],
            dash=dashes[m.dataset],
            marker=markers[m.variant],
            fill="white" if m.dataset == "none" else colours[m.model],
        )
        for m in agents
    }


def model_styles(methods: Iterable[Method]) -> dict[str, LineStyle]:
    """One style per model, whatever its dataset, in legend order."""
    styles = line_styles(method._replace(dataset="something") for method in methods)
    return {method.model: style for method, style in styles.items()}


def scale_note(scale: str) -> str:
    """The sentence on the scale that every caption contains."""
    match scale:
        case "paper":
            return "Scale: paper."
        case "evidence":
            return "Scale: evidence, smaller than the paper's."
        case _:
            return f"Scale: {scale}, too small for claims about the paper."


def _position(name: str, order: Iterable[str]) -> tuple[int, str]:
    names = list(order)
    return (names.index(name) if name in names else len(names), name)


def _assign(names: Iterable[str], values: tuple) -> dict:
    """Values for names in alphabetical order, repeating when there are too few."""
    return {name: values[i % len(values)] for i, name in enumerate(sorted(names))}

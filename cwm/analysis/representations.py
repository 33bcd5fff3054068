"""The representation figure: t-SNE of pre-trained features, and a linear probe of the motion label.

Input is features.npz of `cwm represent`: features (N, F) of clips of two labels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cwm.analysis import panels
from cwm.analysis.provenance import Drawing, drawing_of_runs
from cwm.analysis.runs import read_arrays, single_runs
from cwm.analysis.style import GREY, LineStyle, Method, model_label, model_styles
from cwm.infra.errors import UserError

ENOUGH_CLIPS = 20  # held-out clips per label; with fewer, the probe is cross-validated
FOLDS = 10
CHANCE = 0.5
LABELS = (("o", "#D55E00"), ("^", "#56B4E9"))  # marker and colour


class Probe(NamedTuple):
    """Correct predictions of a linear probe; `folded` if it was cross-validated."""

    correct: int
    clips: int
    folded: bool

    @property
    def accuracy(self) -> float:
        """Share of the clips that were classified correctly."""
        return self.correct / self.clips

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % confidence interval, assuming independent clips."""
        return binomtest(self.correct, self.clips).proportion_ci(method="wilson")


def probe(features: np.ndarray, label: np.ndarray, heldout: np.ndarray) -> Probe:
    """Score logistic regression from features (N, F) to a label (N,) of 0 or 1.

    It is fitted on the clips that are not held out and scored on the held-out ones. If these are
    too few, all clips are cross-validated. UserError below two clips of a label.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    if np.bincount(label[heldout], minlength=2).min() >= ENOUGH_CLIPS:
        model.fit(features[~heldout], label[~heldout])
        correct = model.predict(features[heldout]) == label[heldout]
        return Probe(int(correct.sum()), len(correct), folded=False)
    folds = min(FOLDS, np.bincount(label, minlength=2).min())
    if folds < 2:
        raise UserError("a linear probe needs two clips of each label")
    parts = StratifiedKFold(folds, shuffle=True, random_state=0)
    correct = cross_val_predict(model, features, label, cv=parts) == label
    return Probe(int(correct.sum()), len(correct), folded=True)


def embed(features: np.ndarray) -> np.ndarray:
    """t-SNE of standardised features, (N, 2), with a fixed seed."""
    perplexity = min(30.0, (len(features) - 1) / 3)
    scaled = StandardScaler().fit_transform(features)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(scaled)


def draw_representations(runs: Sequence[Path]) -> Drawing:
    """Draw the clips of each model as points, and the accuracy of linear probes."""
    folders = single_runs(runs)
    styles = model_styles(folders)
    names = ("features", "untrained", "label", "heldout", "labels")
    data = {m: read_arrays(folder / "features.npz", *names) for m, folder in folders.items()}
    probes = {
        method: [probe(of[name], of["label"], of["heldout"]) for name in ("features", "untrained")]
        for method, of in data.items()
    }
    figure, axes = panels.grid(len(folders) + 1, height=1.9)
    for ax, (method, of) in zip(axes, data.items(), strict=False):
        _points(ax, of)
        ax.set_title(f"{model_label(method.model)}, {method.dataset}")
    _accuracies(axes[-1], probes, styles)
    panels.legend(figure, axes, [])
    caption = (
        "Features of clips of two labels, embedded by t-SNE (the axes have no meaning). Right: "
        "accuracy of a linear probe on them, with 95 % confidence intervals."
    )
    details = (
        "Features are modes of the posterior latents and the recurrent state of the action-free "
        "model, averaged over the frames of each clip and standardised. t-SNE has a perplexity of "
        "at most 30 and a fixed seed. The probe is a logistic regression (L2, C = 1), its interval "
        "is Wilson's, over clips. Hollow: features of the same network before training. The dashed "
        "line is chance."
    )
    notes = [note for method in data for note in _notes(method, data[method], probes[method])]
    return drawing_of_runs(figure, caption, details, folders.values(), notes)


def _points(ax: Axes, of: dict[str, np.ndarray]) -> None:
    """Draw clips as points, held-out clips filled."""
    points = embed(of["features"])
    for label, (marker, colour) in enumerate(LABELS):
        name = str(of["labels"][label]).replace("-", " ")
        for heldout, fill, split in ((False, "none", ""), (True, colour, ", held out")):
            those = points[(of["label"] == label) & (of["heldout"] == heldout)]
            style: dict[str, Any] = {"marker": marker, "mfc": fill, "mec": colour}
            ax.plot(*those.T, label=name + split, ls="", mew=0.8, ms=3.5, **style)
    ax.set_xticks([])
    ax.set_yticks([])


def _accuracies(ax: Axes, probes: dict[Method, list[Probe]], styles: dict[str, LineStyle]) -> None:
    for at, (method, (trained, untrained)) in enumerate(probes.items()):
        colour = styles[method.model].colour
        for x, found, fill in ((at - 0.15, trained, colour), (at + 0.15, untrained, "white")):
            ax.plot([x, x], found.interval, color=colour, lw=1.5)
            ax.plot([x], [found.accuracy], "o", mfc=fill, color=colour, ms=4.5)
    ax.axhline(CHANCE, color=GREY, ls="--", lw=0.9, zorder=1)
    ax.set_ylim(0, 1.02)
    ax.set_title("linear probe")
    ax.set_ylabel("accuracy")
    several = len({method.dataset for method in probes}) > 1
    names = [model_label(m.model) + (f"\n{m.dataset}" if several else "") for m in probes]
    ax.set_xticks(range(len(probes)), names)
    ax.set_xlim(-0.5, len(probes) - 0.5)


def _notes(method: Method, of: dict[str, np.ndarray], probes: list[Probe]) -> list[str]:
    """The accuracies, and how the probe was scored if few clips are held out."""
    trained, untrained = ("{:.0%} [{:.0%}, {:.0%}]".format(p.accuracy, *p.interval) for p in probes)
    notes = [
        f"{method.label}: the probe classifies {trained} of {probes[0].clips} clips correctly, "
        f"untrained {untrained}, chance {CHANCE:.0%}."
    ]
    if probes[0].folded:
        few = np.bincount(of["label"][of["heldout"]], minlength=2)
        notes.append(
            f"{method.label}: only {few[0]} and {few[1]} clips of the labels are held out, so the "
            "probe is scored by cross-validation over all clips, most of which the world model "
            "was trained on (without their labels)."
        )
    return notes

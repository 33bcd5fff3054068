"""What pre-trained models' features know of the motion: a picture, and a linear probe's accuracy.

From the features.npz of `cwm represent`: clips of two labels, (N, F).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cwm.analysis import models, panels
from cwm.analysis.provenance import About, save
from cwm.analysis.runs import read_arrays
from cwm.analysis.style import GREY, RC, Look, Method, model_label
from cwm.infra.errors import UserError

ENOUGH = 20  # held-out clips of each label: with fewer a probe is scored on all clips
FOLDS = 10
CHANCE = 0.5
KINDS = (("o", "#D55E00"), ("^", "#56B4E9"))  # marker and colour of the two labels


class Probe(NamedTuple):
    """How many clips a linear probe told right, and whether it was fitted on folds of them all."""

    right: int
    clips: int
    folded: bool

    @property
    def accuracy(self) -> float:
        """Share of the clips."""
        return self.right / self.clips

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, which takes the clips for independent."""
        return binomtest(self.right, self.clips).proportion_ci(method="wilson")


def probe(features: np.ndarray, label: np.ndarray, heldout: np.ndarray) -> Probe:
    """Logistic regression from features (N, F) to a label (N,) of 0 or 1.

    Fitted on the clips that are not held out and scored on those that are; with too few of these,
    by cross-validation over all.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    if np.bincount(label[heldout], minlength=2).min() >= ENOUGH:
        model.fit(features[~heldout], label[~heldout])
        right = model.predict(features[heldout]) == label[heldout]
        return Probe(int(right.sum()), len(right), folded=False)
    folds = min(FOLDS, np.bincount(label, minlength=2).min())
    if folds < 2:
        raise UserError("a linear probe needs two clips of each label")
    parts = StratifiedKFold(folds, shuffle=True, random_state=0)
    right = cross_val_predict(model, features, label, cv=parts) == label
    return Probe(int(right.sum()), len(right), folded=True)


def embed(features: np.ndarray) -> np.ndarray:
    """t-SNE of standardised features, (N, 2); the same features give the same picture."""
    perplexity = min(30.0, (len(features) - 1) / 3)
    scaled = StandardScaler().fit_transform(features)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(scaled)


def draw_representations(runs: Sequence[Path], out: Path, about: About) -> None:
    """Clips as points for each model, and beside them what a linear probe tells of the labels."""
    folders = models.folders(runs)
    drawn = models.looks_of(folders)
    names = ("features", "untrained", "label", "heldout", "labels")
    data = {m: read_arrays(folder / "features.npz", *names) for m, folder in folders.items()}
    probes = {
        method: [probe(of[name], of["label"], of["heldout"]) for name in ("features", "untrained")]
        for method, of in data.items()
    }
    with mpl.rc_context(RC):
        figure, axes = panels.grid(len(folders) + 1, height=1.9)
        for ax, (method, of) in zip(axes, data.items(), strict=False):
            _cloud(ax, of)
            ax.set_title(f"{model_label(method.model)}, {method.dataset}")
        _accuracies(axes[-1], probes, drawn)
        panels.legend(figure, axes, [])
        words = (
            "Features of clips of two labels (posterior latents at their modes and recurrent "
            "state of the action-free model, averaged over the frames of each clip), standardised "
            "and drawn by t-SNE (perplexity at most 30, fixed seed), whose axes mean nothing. "
            "Right: accuracy of a linear probe (logistic regression, L2, C = 1) on the features, "
            "with Wilson's 95 % interval over clips; hollow, on those of the same network before "
            "training; the dashed line is chance."
        )
        notes = [note for method in data for note in _notes(method, data[method], probes[method])]
        save(figure, out, words, models.shown(folders.values(), notes), about)


def _cloud(ax: Axes, of: dict[str, np.ndarray]) -> None:
    """Clips as points: those that are held out are filled."""
    points = embed(of["features"])
    for kind, (marker, colour) in enumerate(KINDS):
        name = str(of["labels"][kind]).replace("-", " ")
        for heldout, fill, split in ((False, "none", ""), (True, colour, ", held out")):
            those = points[(of["label"] == kind) & (of["heldout"] == heldout)]
            style = {"marker": marker, "mfc": fill, "mec": colour, "ls": "", "mew": 0.8, "ms": 3.5}
            ax.plot(*those.T, label=name + split, **style)
    ax.set_xticks([])
    ax.set_yticks([])


def _accuracies(ax: Axes, probes: dict[Method, list[Probe]], drawn: dict[str, Look]) -> None:
    for at, (method, (trained, untrained)) in enumerate(probes.items()):
        colour = drawn[method.model].colour
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
    """What the probe was scored on, and how much it told."""
    few = np.bincount(of["label"][of["heldout"]], minlength=2)
    trained, untrained = ("{:.0%} [{:.0%}, {:.0%}]".format(p.accuracy, *p.interval) for p in probes)
    notes = [
        f"{method.label}: the probe tells {trained} of {probes[0].clips} clips right, untrained "
        f"{untrained}, chance {CHANCE:.0%}."
    ]
    if probes[0].folded:
        notes.append(
            f"{method.label}: only {few[0]} and {few[1]} clips of the labels are held out, so the "
            "probe is scored by cross-validation over all clips, most of which the world model "
            "was trained on (without their labels)."
        )
    return notes

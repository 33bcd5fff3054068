"""Figures of pre-trained models: training curves, prediction errors, strips of frames.

Every function takes run folders or files in them, and raises UserError naming a broken run.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwm.analysis import panels
from cwm.analysis.prediction_errors import (
    MEASURES,
    by_horizon,
    compare_models,
    read_errors,
    sample_sizes,
)
from cwm.analysis.provenance import Drawing, drawing_of_runs
from cwm.analysis.runs import read_arrays, read_metrics, runs_by_seed, single_runs
from cwm.analysis.style import GREY, LineStyle, Method, model_label, model_styles
from cwm.analysis.video_statistics import attention_note, composition_note
from cwm.infra.errors import UserError

STRIP = 10  # columns of frames
COMPOSED = 2  # clips
ERROR_BLACK = 0.5  # absolute error, of pixels in 0..1, that is drawn black
TRAINING = {  # title of a panel: its metrics
    "image loss": ("train/image", "heldout/image"),
    "KL": ("train/kl", "heldout/kl"),
    "prediction error": ("heldout/prediction", "heldout/repeat"),
    "on moving pixels": ("heldout/prediction_moving", "heldout/repeat_moving"),
}
REPEATED = LineStyle(GREY, "--", "", GREY)
REPEATED_LABEL = "Last observed frame repeated"


def draw_pretraining(runs: Sequence[Path]) -> Drawing:
    """Draw losses, and held-out prediction errors, against the updates of pre-training."""
    found = runs_by_seed(runs)
    styles = model_styles(found)
    figure, rows = _dataset_rows(found, [*TRAINING], "updates")
    notes: list[str] = []
    for method, seeds in found.items():
        for folder in seeds.values():
            notes += _metrics(rows[method.dataset], method, styles[method.model], folder)
    for row in rows.values():
        for ax in row:
            panels.fit_to_end(ax)
    _legend(figure, rows, styles)
    caption = (
        "Pre-training: losses in training (lines) and on held-out clips (dots), and errors of "
        "predicting held-out clips, against updates."
    )
    details = (
        "Image loss and KL are in nats. Prediction error: mean squared error (pixels in 0..1) of "
        "the second half of held-out clips, predicted open loop from the first half, over all "
        "pixels and over pixels that differ from the last observed frame. The baseline repeats "
        "that frame. The axes fit the curves after the first tenth of training."
    )
    if max(map(len, found.values())) == 1:
        notes.append("One run of each model: the spread between seeds is unknown.")
    return drawing_of_runs(figure, caption, details, _folders(found), notes)


def draw_prediction_errors(predictions: Sequence[Path]) -> Drawing:
    """Draw PSNR and SSIM of predicted held-out clips by horizon, from errors.csv."""
    found = runs_by_seed(predictions)
    styles = model_styles(found)
    errors = {method: read_errors(seeds) for method, seeds in found.items()}
    figure, rows = _dataset_rows(found, [*MEASURES.values()], "frames ahead")
    for method, frames in errors.items():
        first = next(m for m in errors if m.dataset == method.dataset)
        for ax, column in zip(rows[method.dataset], MEASURES, strict=True):
            _by_horizon(ax, frames, column, model_label(method.model), styles[method.model])
            if method is first:
                _by_horizon(ax, frames, f"repeat_{column}", REPEATED_LABEL, REPEATED)
    _legend(figure, rows, styles)
    caption = (
        "Open-loop prediction of held-out clips against the horizon, with 95 % bootstrap "
        "confidence intervals. Higher is better."
    )
    details = (
        "Peak signal-to-noise ratio (PSNR, at most 60 dB) and structural similarity (SSIM, Wang et "
        "al. 2004: Gaussian windows of 11 x 11 pixels inside the frame), over all pixels and over "
        "pixels that differ from the last observed frame. Lines are means over clips. Intervals "
        "are over seeds of pre-training, or over clips if there is one seed. The context is the "
        "last observed frame."
    )
    notes = [*sample_sizes(errors), *compare_models(errors)]
    return drawing_of_runs(figure, caption, details, _folders(found), notes)


def draw_prediction(predictions: Sequence[Path]) -> Drawing:
    """Draw the first held-out clip: truth, each model's frames, their errors, attention."""
    folders, films = _films(predictions)
    first = next(iter(films.values()))
    truth, observed = first["truth"][0], int(first["observed"])
    at = _shown_frames(observed, len(truth))
    rows: list[panels.Row] = [("Truth", [None, *truth[at]])]
    for method, film in films.items():
        name, frames = model_label(method.model), film["model"][0]
        context = film["context"][0] if "context" in film else None
        rows += [(name, [context, *frames[at]]), ("error", [None, *_errors(frames, truth)[at]])]
        if context is not None and "attention" in film:
            rows.append(("attention", [None, *_lit(context, film["attention"][0][at])]))
    still = np.broadcast_to(truth[observed - 1], truth.shape)
    rows.append(("Repeated, error", [truth[observed - 1], *_errors(still, truth)[at]]))
    names = [f"{'observed' if t < observed else 'predicted'}\nt = {t}" for t in at]
    notes = [
        f"{m.label}: {attention_note(film)}" for m, film in films.items() if "attention" in film
    ]
    figure = panels.mosaic(rows, ["context", *names])
    caption = (
        f"Open-loop prediction of the first held-out clip, which was not selected: {observed} "
        "frames are observed and the rest predicted from them."
    )
    details = (
        "Errors are absolute differences "
        f"averaged over colours, black from {ERROR_BLACK} of 0..1. The last row repeats the "
        "last observed frame. The first column is the context frame, for models that use one. "
        "Attention: the context frame, lit where the moving tokens of the frame attend to it "
        "(16 x 16 tokens, mean over heads, brightest at the maximum); empty if nothing moves."
    )
    return drawing_of_runs(figure, caption, details, folders.values(), notes)


def draw_composition(predictions: Sequence[Path]) -> Drawing:
    """Draw the dynamics of one held-out clip with the context frame of another."""
    folders, films = _films(predictions)
    first = next(iter(films.values()))
    at = np.linspace(0, first["truth"].shape[1] - 1, STRIP).astype(int)
    rows: list[panels.Row] = []
    for clip, truth in enumerate(first["truth"][:COMPOSED]):
        rows.append((f"Clip {clip + 1}", [None, *truth[at]]))
        for method, film in films.items():
            name, decoded = model_label(method.model), film["decoded"][clip][at]
            if "recomposed" not in film:
                rows.append((name, [None, *decoded]))
                continue
            other = film["context"][film["other"][clip]]
            rows.append((name, [film["context"][clip], *decoded]))
            rows.append(("other context", [other, *film["recomposed"][clip][at]]))
    notes = [f"{method.label}: {composition_note(film)}" for method, film in films.items()]
    figure = panels.mosaic(rows, ["context", *(f"t = {t}" for t in at)])
    caption = (
        "Compositional decoding of the first held-out clips: latents of all frames of a clip, "
        "decoded with its own context frame (first column) and with that of another clip."
    )
    details = (
        "A plain model decodes from latents only and has no context to exchange; it is shown for "
        "reference."
    )
    return drawing_of_runs(figure, caption, details, folders.values(), notes)


def _dataset_rows(
    methods: Iterable[Method], titles: list[str], xlabel: str
) -> tuple[Figure, dict[str, list[Axes]]]:
    """A figure with one labelled row of panels per dataset."""
    datasets = list(dict.fromkeys(method.dataset for method in methods))
    columns = len(titles)
    figure, axes = panels.grid(columns * len(datasets), height=1.25, columns=columns)
    for ax, name in zip(axes, titles, strict=False):
        ax.set_title(name)
    for ax in axes[-columns:]:
        ax.set_xlabel(xlabel)
    rows = {name: axes[i * columns :][:columns] for i, name in enumerate(datasets)}
    for name, row in rows.items():
        row[0].set_ylabel(name)
    return figure, rows


def _legend(figure: Figure, rows: dict[str, list[Axes]], models: Iterable[str]) -> None:
    panels.legend(figure, [ax for row in rows.values() for ax in row], map(model_label, models))


def _metrics(row: Sequence[Axes], method: Method, style: LineStyle, folder: Path) -> Iterator[str]:
    """Draw the metrics of one run; yield notes on metrics that are missing or not finite."""
    metrics = read_metrics(folder, ["train/image", "train/kl"])
    name, colour = model_label(method.model), style.colour
    heldout: dict[str, Any] = {"color": colour, "marker": style.marker, "lw": 0.5, "ls": ":"}
    heldout["label"] = f"{name}, held out"
    train: dict[str, Any] = {"color": colour, "lw": 0.8, "label": name}
    repeated = {"color": GREY, "ls": "--", "lw": 0.9, "label": REPEATED_LABEL, "zorder": 1}
    for ax, columns in zip(row, TRAINING.values(), strict=True):
        for column in columns:
            if column not in metrics:
                yield f"{method.label}: {column} was not logged."
                continue
            finite = metrics[np.isfinite(metrics[column])]
            options = train if column.startswith("train/") else heldout
            options = repeated if column.startswith("heldout/repeat") else options
            ax.plot(finite["step"], finite[column], **options)
            if lost := np.isinf(metrics[column]).sum():
                yield f"{method.label}: {lost} values of {column} are not finite."


def _by_horizon(ax: Axes, frames: pd.DataFrame, column: str, label: str, style: LineStyle) -> None:
    errors = by_horizon(frames, column)
    if len(errors):
        panels.line(ax, errors["ahead"], errors, label, style)


def _folders(found: dict[Method, dict[int, Path]]) -> list[Path]:
    return [folder for seeds in found.values() for folder in seeds.values()]


def _films(predictions: Sequence[Path]) -> tuple[dict[Method, Path], dict[Method, dict]]:
    """Run folders and their predictions.npz; UserError if the clips differ between runs."""
    folders = single_runs(predictions)
    names = ("truth", "model", "observed", "decoded")
    films = {m: read_arrays(folder / "predictions.npz", *names) for m, folder in folders.items()}
    first = next(iter(films.values()))
    for method, film in films.items():
        if not np.array_equal(film["truth"], first["truth"]):
            raise UserError(f"{folders[method]} predicts other clips than the first of these runs")
    return folders, films


def _shown_frames(observed: int, length: int) -> np.ndarray:
    """Indices of at most STRIP frames: up to three observed, the last included, then predicted."""
    before = np.unique(np.linspace(0, observed - 1, min(3, observed)).astype(int))
    after = np.linspace(observed, length - 1, min(STRIP - len(before), length - observed))
    return np.concatenate([before, after.astype(int)])


def _errors(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pictures of the absolute errors of frames (T, H, W, 3), darker where they are larger."""
    error = np.abs(frames / 255 - truth / 255).mean(axis=-1, keepdims=True)
    return (255 * (1 - np.minimum(error / ERROR_BLACK, 1))).repeat(3, axis=-1).astype(np.uint8)


def _lit(context: np.ndarray, maps: np.ndarray) -> list[np.ndarray | None]:
    """The frame (H, W, 3) lit by each of the maps (T, h, w); None where a map is undefined."""
    cell = len(context) // maps.shape[-1]
    light = 0.1 + 0.9 * maps / maps.max((1, 2), keepdims=True)
    light = light.repeat(cell, 1).repeat(cell, 2)[..., None]
    return [None if np.isnan(x).any() else (context * x).astype(np.uint8) for x in light]

"""Figures of pre-trained models: how they learn, and what they predict of held-out clips.

Run folders, or files in them, in; STEM.pdf, STEM.png and STEM.json out.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwm.analysis import models, panels
from cwm.analysis.estimates import by_horizon, repeated
from cwm.analysis.provenance import About, save
from cwm.analysis.runs import read_arrays, read_csv, read_metrics
from cwm.analysis.statistics import estimate, mean
from cwm.analysis.style import GREY, RC, Look, Method, model_label
from cwm.analysis.tables import number
from cwm.infra.errors import UserError

STRIP = 10  # columns of frames
COMPOSED = 2  # clips
ERROR_BLACK = 0.5  # of the grey values 0..1
LEAST_ERROR = 1e-6  # and so 60 dB at most, also for a frame without any error
FEW_CLIPS = 30  # with fewer, intervals are rough
LEARNED = {"image": "image loss", "kl": "KL"}
FORESEEN = {"prediction": "prediction error", "prediction_moving": "on moving pixels"}
MEASURES = {
    "psnr": "PSNR (dB)",
    "psnr_moving": "PSNR, moving pixels",
    "ssim": "SSIM",
    "ssim_moving": "SSIM, moving pixels",
}
REPEATED = Look(GREY, "--", "", GREY)
REPEATED_LABEL = "Last observed frame repeated"


def draw_pretraining(runs: Sequence[Path], out: Path, about: About) -> None:
    """Losses, and errors of predicting held-out clips, against the updates of pre-training runs."""
    found = models.by_seed(runs)
    drawn = models.looks_of(found)
    with mpl.rc_context(RC):
        figure, rows = _panels(found, [*LEARNED.values(), *FORESEEN.values()], "updates")
        notes: list[str] = []
        for method, seeds in found.items():
            for folder in seeds.values():
                notes += _learned(rows[method.dataset], method, drawn[method.model], folder)
        for row in rows.values():
            for ax in row:
                panels.fit_to_end(ax)
        _legend(figure, rows, drawn)
        words = (
            "Pre-training: image loss and KL (nats) against updates, lines in training, dots on "
            "held-out clips. Prediction error: mean squared error (pixels in 0..1) of the second "
            "half of held-out clips, predicted open loop from the first; over all pixels, and over "
            "those that differ from the last observed frame, which repeated is the baseline. Axes "
            "are fitted to what follows the first tenth."
        )
        if max(map(len, found.values())) == 1:
            notes.append("One run of each model: nothing is known of the spread between seeds.")
        save(figure, out, words, models.shown(_all(found), notes), about)


def draw_prediction_errors(predictions: Sequence[Path], out: Path, about: About) -> None:
    """Likeness of predicted held-out clips by horizon, from the errors.csv of predictions."""
    found = models.by_seed(predictions)
    drawn = models.looks_of(found)
    errors = {method: _read_errors(seeds) for method, seeds in found.items()}
    with mpl.rc_context(RC):
        figure, rows = _panels(found, [*MEASURES.values()], "frames ahead")
        for method, frames in errors.items():
            for ax, column in zip(rows[method.dataset], MEASURES, strict=True):
                label, look = model_label(method.model), drawn[method.model]
                _by_horizon(ax, frames, column, label, look)
                if method is next(m for m in errors if m.dataset == method.dataset):
                    _by_horizon(ax, frames, f"repeat_{column}", REPEATED_LABEL, REPEATED)
        _legend(figure, rows, drawn)
        notes = [*_few_clips(errors), *_compared(errors)]
        words = (
            "Open-loop prediction of held-out clips against the horizon: peak signal-to-noise "
            "ratio (at most 60 dB) and structural similarity (Wang et al. 2004: Gaussian windows "
            "of 11 x 11 pixels that lie within the frame) over all pixels, and over those that "
            "differ from the last observed frame. More is better. Lines are means over clips, "
            "bands 95 % bootstrap intervals over seeds of pre-training, or over clips where there "
            "is one seed; the context is the last observed frame."
        )
        save(figure, out, words, models.shown(_all(found), notes), about)


def draw_prediction(predictions: Sequence[Path], out: Path, about: About) -> None:
    """A strip of the first held-out clip: truth, each model's frames, their errors, attention.

    From the predictions.npz of runs, all of the same clips.
    """
    folders, films = _films(predictions)
    first = next(iter(films.values()))
    truth, observed = first["truth"][0], int(first["observed"])
    at = _instants(observed, len(truth))
    rows = [("Truth", [None, *truth[at]])]
    for method, film in films.items():
        name, frames = model_label(method.model), film["model"][0]
        context = film["context"][0] if "context" in film else None
        rows += [(name, [context, *frames[at]]), ("error", [None, *_dark(frames, truth)[at]])]
        if "attention" in film:
            rows.append(("attention", [None, *_lit(film["context"][0], film["attention"][0][at])]))
    still = np.broadcast_to(truth[observed - 1], truth.shape)
    rows.append(("Repeated, error", [truth[observed - 1], *_dark(still, truth)[at]]))
    names = [f"{'observed' if t < observed else 'predicted'}\nt = {t}" for t in at]
    notes = [_looks(method, film) for method, film in films.items() if "attention" in film]
    with mpl.rc_context(RC):
        figure = panels.mosaic(rows, ["context", *names])
        words = (
            f"Open-loop prediction of the first held-out clip, not a chosen one: {observed} frames "
            "are observed and the rest predicted from them. Errors are absolute differences "
            f"averaged over colours, black from {ERROR_BLACK} of 0..1; the last row repeats the "
            "last observed frame. The first column is the context frame of a model that uses one. "
            "Attention: that frame, lit where the parts of the frame that move look in it (16 x 16 "
            "tokens, mean over heads), full brightness for the strongest; empty where none moves."
        )
        save(figure, out, words, models.shown(folders.values(), notes), about)


def draw_composition(predictions: Sequence[Path], out: Path, about: About) -> None:
    """The dynamics of one held-out clip with the context frame of another."""
    folders, films = _films(predictions)
    first = next(iter(films.values()))
    at = np.linspace(0, first["truth"].shape[1] - 1, STRIP).astype(int)
    rows = []
    for clip, truth in enumerate(first["truth"][:COMPOSED]):
        rows.append((f"Clip {clip + 1}", [None, *truth[at]]))
        for method, film in films.items():
            name = model_label(method.model)
            if "recomposed" not in film:
                rows.append((name, [None, *film["decoded"][clip][at]]))
                continue
            other = film["context"][film["other"][clip]]
            rows.append((name, [film["context"][clip], *film["decoded"][clip][at]]))
            rows.append(("other context", [other, *film["recomposed"][clip][at]]))
    notes = [_composed(method, film) for method, film in films.items()]
    with mpl.rc_context(RC):
        figure = panels.mosaic(rows, ["context", *(f"t = {t}" for t in at)])
        words = (
            "Compositional decoding of the first held-out clips: latents of all frames of a clip, "
            "decoded with its own context frame (first column) and with that of another clip. A "
            "plain model, whose decoder sees latents only, has no context to exchange: it is shown "
            "for reference."
        )
        save(figure, out, words, models.shown(folders.values(), notes), about)


# --- what is drawn -------------------------------------------------------------------------------


def _panels(
    methods: Iterable[Method], titles: list[str], xlabel: str
) -> tuple[Figure, dict[str, list[Axes]]]:
    """A row of panels for each dataset, named at the left."""
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


def _legend(figure: Figure, rows: dict[str, list[Axes]], drawn: Iterable[str]) -> None:
    panels.legend(figure, [ax for row in rows.values() for ax in row], map(model_label, drawn))


def _learned(row: Sequence[Axes], method: Method, look: Look, folder: Path) -> Iterator[str]:
    """Draw the metrics of one run; yields remarks on what cannot be drawn."""
    metrics = read_metrics(folder, ["train/image", "train/kl"])
    name = model_label(method.model)
    dots = {"color": look.colour, "marker": look.marker, "label": f"{name}, held out"}
    lines = {"train": {"color": look.colour, "lw": 0.8, "label": name}, "heldout": dots}
    lines["heldout"] |= {"lw": 0.5, "ls": ":"}
    level = {"color": GREY, "ls": "--", "lw": 0.9, "label": REPEATED_LABEL, "zorder": 1}
    both, ahead = row[: len(LEARNED)], row[len(LEARNED) :]
    drawn = [
        (ax, f"{split}/{x}", style)
        for ax, x in zip(both, LEARNED, strict=True)
        for split, style in lines.items()
    ]
    for ax, x in zip(ahead, FORESEEN, strict=True):
        drawn.append((ax, f"heldout/{x}", dots))
        drawn.append((ax, f"heldout/{x.replace('prediction', 'repeat')}", level))
    for ax, column, style in drawn:
        if column not in metrics:
            yield f"{method.label}: {column} was not logged."
            continue
        known = metrics[np.isfinite(metrics[column])]
        ax.plot(known["step"], known[column], **style)
        if lost := np.isinf(metrics[column]).sum():
            yield f"{method.label}: {lost} values of {column} are not finite."


def _all(found: dict[Method, dict[int, Path]]) -> list[Path]:
    return [folder for seeds in found.values() for folder in seeds.values()]


def _read_errors(seeds: dict[int, Path]) -> pd.DataFrame:
    """The errors.csv of some seeds with the signal-to-noise ratios of their squared errors."""
    columns = [by + name for by in ("", "repeat_") for name in MEASURES]
    stored = [name.replace("psnr", "mse") for name in columns]
    tables = []
    for seed, folder in seeds.items():
        table = read_csv(folder / "errors.csv", ["phase"], ["clip", "t", *stored])
        if set(table["phase"]) != {"observed", "predicted"}:
            raise UserError(f"{folder / 'errors.csv'} has not both observed and predicted frames")
        tables.append(table.assign(seed=seed))
    frames = pd.concat(tables, ignore_index=True)
    for name, column in zip(stored, columns, strict=True):
        if name != column:
            frames[column] = -10 * np.log10(frames[name].clip(lower=LEAST_ERROR))
    return frames


def _by_horizon(ax: Axes, frames: pd.DataFrame, column: str, label: str, look: Look) -> None:
    errors = by_horizon(frames, column)
    if len(errors):
        panels.line(ax, errors["ahead"], errors, label, look)


def _few_clips(errors: dict[Method, pd.DataFrame]) -> Iterator[str]:
    """How many clips there are of each dataset, and where something moves in fewer."""
    for dataset in dict.fromkeys(method.dataset for method in errors):
        frames = next(frames for method, frames in errors.items() if method.dataset == dataset)
        clips, first = frames["clip"].nunique(), frames[frames["seed"] == frames["seed"].min()]
        moving = first[first["phase"] == "predicted"].groupby("t")["mse_moving"].count().min()
        few = ", so only rough intervals" if clips < FEW_CLIPS else ""
        many = "1 held-out clip, so no intervals" if clips == 1 else f"{clips} held-out clips{few}"
        models = {len(set(f["seed"])) for m, f in errors.items() if m.dataset == dataset}
        seeds = " to ".join(map(str, sorted({min(models), max(models)})))
        yield f"{dataset}: {many}; seeds of pre-training of each model: {seeds}."
        if moving < clips:
            yield f"{dataset}: at some horizons pixels move in {moving} of {clips} clips."


def _compared(errors: dict[Method, pd.DataFrame]) -> Iterator[str]:
    """What the first model of a dataset has over the others, and over repeating.

    Clip by clip of each seed, since equal seeds predict equal clips.
    """
    for dataset in dict.fromkeys(method.dataset for method in errors):
        first, *others = [method for method in errors if method.dataset == dataset]
        ours = _per_clip(errors[first], MEASURES)
        theirs = {model_label(m.model): _per_clip(errors[m], MEASURES) for m in others}
        still = _per_clip(errors[first], [f"repeat_{name}" for name in MEASURES])
        theirs["repeating"] = still.set_axis([*MEASURES], axis=1)
        for name, clips in theirs.items():
            gains = (ours - clips).dropna(how="all")
            words = []
            for column, title in MEASURES.items():
                if len(gain := gains[column].dropna()):
                    seed = gain.index.get_level_values("seed")
                    value = number(*estimate([repeated(gain, seed)], mean))
                    each = [f"{x:.2f}" for x in gain.groupby(seed).mean()]
                    words.append(
                        f"{title} {value}" + f" (seeds: {', '.join(each)})" * (len(each) > 1)
                    )
            yield (
                f"{dataset}: {model_label(first.model)} less {name}, means over the predicted "
                f"frames of each clip: {', '.join(words)}."
            )


def _per_clip(frames: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    return frames[frames["phase"] == "predicted"].groupby(["seed", "clip"])[[*columns]].mean()


def _films(predictions: Sequence[Path]) -> tuple[dict[Method, Path], dict[Method, dict]]:
    """Folders and their arrays, which are of the same clips."""
    folders = models.folders(predictions)
    names = ("truth", "model", "observed", "decoded")
    films = {m: read_arrays(folder / "predictions.npz", *names) for m, folder in folders.items()}
    first = next(iter(films.values()))
    for method, film in films.items():
        if not np.array_equal(film["truth"], first["truth"]):
            raise UserError(f"{folders[method]} predicts other clips than the first of these runs")
    return folders, films


def _instants(observed: int, length: int) -> np.ndarray:
    """At most STRIP frames of a clip: some observed, the last among them, and more predicted."""
    before = np.unique(np.linspace(0, observed - 1, min(3, observed)).astype(int))
    after = np.linspace(observed, length - 1, min(STRIP - len(before), length - observed))
    return np.concatenate([before, after.astype(int)])


def _dark(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Errors of frames (T, H, W, 3), dark where they are large."""
    error = np.abs(frames / 255 - truth / 255).mean(axis=-1, keepdims=True)
    return (255 * (1 - np.minimum(error / ERROR_BLACK, 1))).repeat(3, axis=-1).astype(np.uint8)


def _lit(context: np.ndarray, maps: np.ndarray) -> list[np.ndarray | None]:
    """The frame (H, W, 3) lit by each of the maps (T, h, w); nothing where a map is not defined."""
    cell = len(context) // maps.shape[-1]
    light = 0.1 + 0.9 * maps / maps.max((1, 2), keepdims=True)
    light = light.repeat(cell, 1).repeat(cell, 2)[..., None]
    return [None if np.isnan(x).any() else (context * x).astype(np.uint8) for x in light]


def _looks(method: Method, film: dict[str, np.ndarray]) -> str:
    """Whether what moves looks where the context frame differs, and how evenly it looks."""
    maps, differs = film["attention"], film["moves"]
    defined = ~np.isnan(maps).any((2, 3))
    defined[:, : int(film["observed"])] = False
    maps, differs = maps[defined], differs[defined]
    if not len(maps):
        return f"{method.label}: nothing moves in these clips."
    there, even = (maps * differs).sum((1, 2)).mean(), differs.mean()
    tokens = np.exp(-(maps * np.log(maps + 1e-12)).sum((1, 2))).mean()
    return (
        f"{method.label}, clips: {len(film['truth'])}; of the attention of what moves, {there:.0%} "
        f"goes to the tokens where the context frame differs from the predicted one, {even:.0%} if "
        f"it were even; it is spread as over {tokens:.0f} of {maps[0].size} tokens."
    )


def _composed(method: Method, film: dict[str, np.ndarray]) -> str:
    """How much of a composition is of either clip, over all clips that are there."""
    if "recomposed" not in film:
        return f"{method.label}: no context, so nothing to exchange."
    truth, other = film["truth"] / 255, film["other"]
    if (other == np.arange(len(other))).any():
        return f"{method.label}: one held-out clip only, so no other context."
    made = film["recomposed"] / 255
    still, moves = (lambda x: x.mean(1), lambda x: x - x.mean(1, keepdims=True))
    looks = [_correlation(still(made), still(of)) for of in (truth[other], truth)]
    motion = [_correlation(moves(made), moves(of)) for of in (truth[other], truth)]
    return (
        f"{method.label}, clips: {len(other)}; the mean picture of a composition correlates "
        f"{looks[0]:.2f} with that of the clip of the context and {looks[1]:.2f} with that of the "
        f"dynamics, its changes over time {motion[0]:.2f} and {motion[1]:.2f}."
    )


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over clips of the correlation of two arrays (N, ...)."""
    pairs = zip(x, y, strict=True)
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))

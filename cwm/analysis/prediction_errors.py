"""Errors of predicting held-out clips (errors.csv of `cwm predict`): by horizon, and compared.

PSNR is in dB, at most 60. Intervals resample the seeds of pre-training, or the clips if there is
one seed.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cwm.analysis.runs import read_csv
from cwm.analysis.statistics import estimate, mean
from cwm.analysis.style import Method, model_label
from cwm.analysis.tables import number
from cwm.infra.errors import UserError

MEASURES = {
    "psnr": "PSNR (dB)",
    "psnr_moving": "PSNR, moving pixels",
    "ssim": "SSIM",
    "ssim_moving": "SSIM, moving pixels",
}
MIN_ERROR = 1e-6  # bounds the PSNR of a frame without error
FEW_CLIPS = 30  # with fewer, intervals are rough


def read_errors(seeds: dict[int, Path]) -> pd.DataFrame:
    """The errors.csv of some seeds in one table, with PSNR columns for the squared errors."""
    columns = [prefix + name for prefix in ("", "repeat_") for name in MEASURES]
    stored = [name.replace("psnr", "mse") for name in columns]
    tables = []
    for seed, folder in seeds.items():
        table = read_csv(folder / "errors.csv", ["phase"], ["clip", "t", *stored])
        if set(table["phase"]) != {"observed", "predicted"}:
            raise UserError(f"{folder / 'errors.csv'} needs observed and predicted frames")
        tables.append(table.assign(seed=seed))
    frames = pd.concat(tables, ignore_index=True)
    for name, column in zip(stored, columns, strict=True):
        if name != column:
            frames[column] = -10 * np.log10(frames[name].clip(lower=MIN_ERROR))
    return frames


def by_horizon(frames: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean error over clips by the number of frames `ahead`, with its interval.

    Clips where the error is undefined (no pixel moves) do not count.
    """
    predicted = frames[frames["phase"] == "predicted"].dropna(subset=column)
    ahead = predicted["t"] - frames.loc[frames["phase"] == "observed", "t"].max()
    rows = []
    for distance, clips in predicted.groupby(ahead)[column]:
        units = _resampling_units(clips, predicted.loc[clips.index, "seed"])
        rows.append([distance, len(units), *estimate([units], mean)])
    return pd.DataFrame(rows, columns=["ahead", "n", "value", "value_low", "value_high"])


def compare_models(errors: dict[Method, pd.DataFrame]) -> Iterator[str]:
    """Per dataset, how far the first model is ahead of the others and of repeating a frame.

    Differences are taken clip by clip and seed by seed.
    """
    for methods in _by_dataset(errors).values():
        first, *others = methods
        ours = _per_clip(errors[first], MEASURES)
        theirs = {model_label(m.model): _per_clip(errors[m], MEASURES) for m in others}
        repeated = _per_clip(errors[first], [f"repeat_{name}" for name in MEASURES])
        theirs["repeated frame"] = repeated.set_axis([*MEASURES], axis=1)
        for name, clips in theirs.items():
            gains = (ours - clips).dropna(how="all")
            text = [_gain(gains[column].dropna(), title) for column, title in MEASURES.items()]
            yield (
                f"{first.dataset}: {model_label(first.model)} minus {name}, mean over each clip's "
                f"predicted frames: {', '.join(filter(None, text))}."
            )


def sample_sizes(errors: dict[Method, pd.DataFrame]) -> Iterator[str]:
    """Per dataset, the number of clips and seeds, and of clips with moving pixels if fewer."""
    for dataset, methods in _by_dataset(errors).items():
        frames = errors[methods[0]]
        clips, first = frames["clip"].nunique(), frames[frames["seed"] == frames["seed"].min()]
        rough = ", so rough intervals" if clips < FEW_CLIPS else ""
        many = (
            "1 held-out clip, so no intervals" if clips == 1 else f"{clips} held-out clips{rough}"
        )
        counts = {errors[method]["seed"].nunique() for method in methods}
        seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
        yield f"{dataset}: {many}; seeds of pre-training per model: {seeds}."
        moving = first[first["phase"] == "predicted"].groupby("t")["mse_moving"].count().min()
        if moving < clips:
            yield f"{dataset}: at some horizons pixels move in {moving} of {clips} clips."


def _by_dataset(methods: Iterable[Method]) -> dict[str, list[Method]]:
    found: dict[str, list[Method]] = {}
    for method in methods:
        found.setdefault(method.dataset, []).append(method)
    return found


def _gain(gain: pd.Series, title: str) -> str:
    """A mean difference with its interval and, if there are several, each seed's mean."""
    if not len(gain):
        return ""
    seed = gain.index.get_level_values("seed")
    each = [f"{x:.2f}" for x in gain.groupby(seed).mean()]
    value = number(*estimate([_resampling_units(gain, seed)], mean))
    return f"{title} {value}" + f" (seeds: {', '.join(each)})" * (len(each) > 1)


def _resampling_units(clips: pd.Series, seed: pd.Series | pd.Index) -> np.ndarray:
    """Means of the seeds, or the single clips if there is one seed."""
    seeds = clips.groupby(seed).mean()
    return (seeds if len(seeds) > 1 else clips).to_numpy()


def _per_clip(frames: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    return frames[frames["phase"] == "predicted"].groupby(["seed", "clip"])[[*columns]].mean()

"""Building blocks of figures: grids of panels, frame mosaics, lines, bars and legends."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from cwm.analysis.style import GREY, MODELS, POLICIES, WIDTH, LineStyle, Method

Row = tuple[str, list[np.ndarray | None]]  # of a mosaic: label and frames
MEASURES = {"success": "success rate", "return": "return", "scaled": "scaled score"}


def grid(panels: int, height: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure of the paper's text width with this many panels, each `height` inches tall."""
    columns = 2 if panels == 4 and columns == 3 else min(panels, columns)
    rows = -(-panels // columns)
    height = 2.3 if panels == 1 else rows * height
    figure = Figure((WIDTH, height + 0.45), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes[panels:]:
        ax.set_axis_off()
    return figure, list(axes[:panels])


def mosaic(rows: list[Row], columns: list[str]) -> Figure:
    """A figure of labelled rows of frames, uint8 (H, W, 3) of one size; None leaves a gap."""
    names, films = zip(*rows, strict=True)
    size = next(frame for frame in films[0] if frame is not None).shape[0]
    step = size + size // 16  # a narrow gap
    image = np.full((step * len(rows), step * len(columns), 3), 255, np.uint8)
    for i, frames in enumerate(films):
        for j, frame in enumerate(frames):
            if frame is not None:
                image[i * step : i * step + size, j * step : j * step + size] = frame
    label_width = 0.055 * max(map(len, names))
    height = (WIDTH - label_width) / len(columns) * len(rows) + 0.45
    figure = Figure((WIDTH, height), layout="constrained")
    ax = figure.subplots()
    ax.imshow(image, interpolation="nearest")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    middle = size / 2
    ax.set_xticks(middle + step * np.arange(len(columns)), columns, fontsize=5)
    ax.set_yticks(middle + step * np.arange(len(rows)), names, fontsize=6)
    return figure


def title(ax: Axes, name: tuple[str, str], measure: str) -> None:
    """Label a panel with its task and measure."""
    ax.set_title("all tasks" if name[0] == "all" else "/".join(name))
    ax.set_ylabel(MEASURES[measure])
    if measure == "success":
        ax.set_ylim(-0.04, 1.04)


def line(ax: Axes, x: pd.Series, rows: pd.DataFrame, label: str, style: LineStyle) -> None:
    """Draw `value` over x, with a band between `value_low` and `value_high` where these exist."""
    low, high, colour = rows["value_low"], rows["value_high"], style.colour
    ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    marks: dict[str, Any] = {"marker": style.marker, "mfc": style.fill, "mew": 0.8}
    every = max(1, len(rows) // 8)
    ax.plot(x, rows["value"], color=colour, ls=style.dash, label=label, markevery=every, **marks)


def published(ax: Axes, method: str, x: pd.Series, rows: pd.DataFrame) -> None:
    """Draw a published interval as a band in the background."""
    colour = MODELS["dreamer" if method == "DreamerV2" else "plain"][1]
    low, high = rows["value_low"], rows["value_high"]
    label = f"{method}, published"
    ax.fill_between(x, low, high, color=colour, alpha=0.12, lw=0, zorder=0, label=label)


def seed_lines(ax: Axes, runs: pd.DataFrame, style: LineStyle) -> None:
    """Draw each seed's evaluations as a thin line."""
    for _, run in runs.groupby("seed"):
        ax.plot(run["step"], run["score"], color=style.colour, lw=0.5, alpha=0.5, zorder=1)


def bar(
    ax: Axes, at: float, row: pd.Series, seeds: np.ndarray, style: LineStyle, label: str
) -> None:
    """Draw a value with its interval, and the seeds (N,) beside it as dots."""
    ax.plot([at, at], [row["value_low"], row["value_high"]], color=style.colour, lw=1.5)
    ax.plot(np.full(len(seeds), at + 0.09), seeds, ".", color=style.colour, ms=3.5, mew=0)
    marks: dict[str, Any] = {"marker": style.marker, "mfc": style.fill, "color": style.colour}
    ax.plot([at], [row["value"]], label=label, ls="none", ms=4, **marks)


def step_axis(ax: Axes, label: str) -> None:
    """Label the x axis and abbreviate large counts, as 100k."""
    ax.set_xlabel(label)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def baseline(ax: Axes, method: Method, value: float) -> None:
    """Draw a baseline policy's score as a horizontal line."""
    dash = POLICIES[method.policy][1]
    ax.axhline(value, color=GREY, lw=0.9, ls=dash, label=method.label, zorder=1)


def fit_to_end(ax: Axes) -> None:
    """Fit the y axis to the lines after the first tenth of training, where losses are large."""
    lines = [np.asarray(drawn.get_xydata()).T for drawn in ax.lines]
    ends = [y[x >= 0.1 * x.max(initial=0)] for x, y in lines]
    values = np.concatenate([np.empty(0), *ends])
    if len(values) and np.ptp(values) > 0:
        margin = 0.06 * np.ptp(values)
        ax.set_ylim(values.min() - margin, values.max() + margin)


def legend(figure: Figure, axes: list[Axes], order: Iterable[str]) -> None:
    """Draw one legend below all panels, with each label once; labels in `order` come first."""
    drawn: dict[str, Artist] = {}
    for ax in axes:
        for mark, label in zip(*ax.get_legend_handles_labels(), strict=True):
            drawn.setdefault(label, mark)
    marks = {label: drawn[label] for label in [*order, *drawn] if label in drawn}
    columns = 3 if max(map(len, marks), default=0) < 30 else 2
    figure.legend(
        marks.values(), marks.keys(), loc="outside lower center", ncols=columns, handlelength=3
    )

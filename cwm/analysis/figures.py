"""One function per kind of figure: tables and run files in, STEM.pdf, STEM.png and STEM.json out.

Every function raises UserError naming the file that is missing or broken. Where a table holds the
estimate it is drawn, not estimated again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cwm.analysis import panels, published
from cwm.analysis.estimates import by_horizon
from cwm.analysis.normalise import RULE, add_scaled, comparable_tasks
from cwm.analysis.provenance import About, Shown, save
from cwm.analysis.remarks import by_method, remarks
from cwm.analysis.runs import folder_of, read_csv, read_frames, read_identity, read_metrics
from cwm.analysis.scores import METHOD, TASK, load, points
from cwm.analysis.statistics import LAST_EVALUATIONS, final_score
from cwm.analysis.style import RC, Look, Method, in_order, looks, model_label
from cwm.errors import UserError

ESTIMATE = [*TASK, *METHOD, "measure", "method"]
STRIP = 10  # columns of frames
ERROR_BLACK = 0.5  # of the grey values 0..1


def draw_curves(table: Path, scores: Path, out: Path, about: About) -> None:
    """Learning curves: `table` is the curves table's CSV, `scores` the tidy table it came from."""
    scored, shown = _scored(scores)
    estimates = _estimates(table, scored, ["step", "progress"])
    drawn = looks(by_method(scored))
    labels = {method: _with_seeds(rows, method) for method, rows in by_method(scored).items()}
    tasks = estimates.groupby(TASK, sort=False)
    behind = ""
    with mpl.rc_context(RC):
        figure, axes = panels.grid(len(tasks), height=1.55)
        for ax, (name, task) in zip(axes, tasks, strict=True):
            x = "progress" if name[0] == "all" else "step"
            ran = comparable_tasks(scored) if name[0] == "all" else [name]
            bands = published.curves(ran) if shown.scale == "paper" else {}
            for method, rows in bands.items():
                along = rows["step"] / (1 if x == "step" else scored["step"].max())
                panels.published(ax, method, along, rows)
                behind = f" {published.SOURCE}."
            for method, rows in by_method(task).items():
                if method.policy != "agent":
                    panels.level(ax, method, rows["value"].iloc[0])
                    continue
                panels.seed_lines(ax, _rows(scored, name, method), drawn[method])
                panels.line(ax, rows[x], rows, labels[method], drawn[method])
            panels.title(ax, name, task["measure"].iloc[0])
            if x == "step":
                panels.steps(ax, "environment steps")
            else:
                ax.set_xlabel("share of training")
        panels.legend(figure, axes, labels.values())
        words = (
            "Learning curves: bold lines are means over seeds, thin lines single seeds, bands 95 % "
            "bootstrap intervals over seeds within tasks. Over all tasks the line is the "
            f"interquartile mean over runs. {RULE}.{behind}"
        )
        save(figure, out, words, shown, about)


def draw_domains(table: Path, scores: Path, out: Path, about: About) -> None:
    """Final score by pre-training data: `table` is the domains table's CSV, `scores` its source."""
    _draw_finals(table, scores, out, about, "by pre-training data", lambda method: method.source)


def draw_ablations(table: Path, scores: Path, out: Path, about: About) -> None:
    """Final score with parts removed: `table` is the ablations table's CSV, `scores` its source."""
    what = "with parts of the method removed or changed"
    _draw_finals(table, scores, out, about, what, lambda method: method.label)


def _draw_finals(
    table: Path, scores: Path, out: Path, about: About, what: str, group: Callable[[Method], str]
) -> None:
    """A column for each group of methods; within it, models side by side."""
    scored, shown = _scored(scores)
    estimates = _estimates(table, scored, [])
    drawn = looks(by_method(scored))
    agents = [method for method in drawn if method.policy == "agent"]
    groups = defaultdict(list)
    for method in sorted(agents, key=lambda method: method.dataset == "none"):
        groups[group(method)].append(method)
    shift = {m: (i + 0.5) / len(ms) - 0.5 for ms in groups.values() for i, m in enumerate(ms)}
    place = {name: at for at, name in enumerate(groups)}
    tasks = estimates.groupby(TASK, sort=False)
    with mpl.rc_context(RC):
        figure, axes = panels.grid(len(tasks), height=1.9, columns=2)
        for ax, (name, task) in zip(axes, tasks, strict=True):
            for method, rows in by_method(task).items():
                if method.policy != "agent":
                    panels.level(ax, method, rows["value"].iloc[0])
                    continue
                runs = _rows(scored, name, method).groupby("seed")["score"]
                seeds = np.array([final_score(run.to_numpy()) for _, run in runs])
                at = place[group(method)] + 0.6 * shift[method]
                panels.bar(ax, at, rows.iloc[0], seeds, drawn[method], model_label(method.model))
            panels.title(ax, name, task["measure"].iloc[0])
            ax.set_xticks(range(len(place)), place, rotation=25, ha="right", rotation_mode="anchor")
            ax.set_xlim(-0.5, len(place) - 0.5)
        panels.legend(figure, axes, dict.fromkeys(model_label(m.model) for m in agents))
        words = (
            f"Final score {what}: large markers are means over seeds (over all tasks "
            "interquartile means over runs), hollow without pre-training; bars are 95 % bootstrap "
            "intervals over seeds within tasks, dots single seeds, each the mean of its last "
            f"{LAST_EVALUATIONS} evaluations. {RULE}."
        )
        save(figure, out, words, shown, about)


def draw_pretraining(
    runs: Sequence[Path], predictions: Sequence[Path], out: Path, about: About
) -> None:
    """Losses of pre-training runs, and held-out prediction errors of `predictions` by horizon.

    Both are run folders or files in them: metrics.jsonl of the first, errors.csv of the second.
    One row of panels per dataset.
    """
    trained, tested = _methods(runs), _methods(predictions)
    datasets = list(dict.fromkeys(method.dataset for method in [*trained, *tested]))
    drawn = looks(Method("agent", m.model, "something", "standard") for m in [*trained, *tested])
    by_model = {method.model: look for method, look in drawn.items()}
    with mpl.rc_context(RC):
        figure, axes = panels.grid(4 * len(datasets), height=1.25, columns=4)
        rows = dict(zip(datasets, np.reshape(axes, (-1, 4)), strict=True))
        notes: list[str] = []
        for method, folder in trained.items():
            notes += _losses(rows[method.dataset], method, by_model[method.model], folder)
        for method, folder in tested.items():
            _errors(rows[method.dataset], method, by_model[method.model], folder)
        titles = ("image loss", "KL", "prediction error", "on moving pixels")
        for ax, name in zip(axes[:4], titles, strict=True):
            ax.set_title(name)
        for ax in axes[-4:-2]:
            ax.set_xlabel("updates")
        for ax in axes[-2:]:
            ax.set_xlabel("frames ahead")
        for dataset, row in rows.items():
            row[0].set_ylabel(dataset)
            for ax in row[2:]:
                ax.set_ylim(bottom=0)
        panels.legend(figure, axes, map(model_label, by_model))
        words = (
            "Pre-training. Image loss and KL (nats) against updates, dots on held-out clips, the "
            "axes fitted to what follows the first tenth. Mean squared error of open-loop "
            "prediction on held-out clips (pixels in 0..1) against the horizon, over all pixels "
            "and over those that differ from the last observed frame; 95 % bootstrap bands over "
            "clips; repeating the last observed frame is the baseline."
        )
        save(figure, out, words, _shown([*trained.values(), *tested.values()], notes), about)


def draw_prediction(predictions: Sequence[Path], out: Path, about: About) -> None:
    """A strip of the first held-out clip: truth, and each model's frames over their errors.

    `predictions` are run folders with a predictions.npz (or that file), all of the same clips.
    """
    folders = _methods(predictions)
    films = {method: read_frames(folder / "predictions.npz") for method, folder in folders.items()}
    first = next(iter(films.values()))
    for method, film in films.items():
        if not np.array_equal(film["truth"], first["truth"]):
            raise UserError(f"{folders[method]} predicts other clips than the first of these runs")
    truth, observed = first["truth"][0], int(first["observed"])
    at = _instants(observed, len(truth))
    rows = {"Truth": [None, *truth[at]]}
    for method, film in films.items():
        name = model_label(method.model)
        error = np.abs(film["model"][0] / 255 - truth / 255).mean(axis=-1, keepdims=True)
        dark = (255 * (1 - np.minimum(error / ERROR_BLACK, 1))).repeat(3, axis=-1).astype(np.uint8)
        context = film["context"][0] if "context" in film else None
        rows |= {name: [context, *film["model"][0][at]], f"{name} error": [None, *dark[at]]}
    names = [f"{'observed' if t < observed else 'predicted'}\nt = {t}" for t in at]
    with mpl.rc_context(RC):
        figure = panels.mosaic(rows, ["context", *names])
        words = (
            f"Open-loop prediction of the first held-out clip, not a chosen one: {observed} frames "
            "are observed and the rest predicted from them. Errors are absolute differences "
            f"averaged over colours, black from {ERROR_BLACK} of 0..1. The first column is the "
            "context frame of a model that uses one."
        )
        save(figure, out, words, _shown(folders.values()), about)


def _scored(scores: Path) -> tuple[pd.DataFrame, Shown]:
    """Seeds' evaluations with their scaled scores, and what to say of them."""
    tidy = load(scores)
    scored = add_scaled(points(tidy))
    seeds = {
        f"{method.label} on {'/'.join(name)}": int(rows["seed"].nunique())
        for name, task in scored.groupby(TASK, sort=False)
        for method, rows in by_method(task).items()
    }
    agents = scored[scored["policy"] == "agent"]
    names = agents[[*TASK, *METHOD[1:], "seed"]].drop_duplicates().astype(str)
    runs = tuple("/".join(["finetune", *name]) for name in names.itertuples(index=False))
    return scored, Shown(tidy["scale"].iloc[0], runs, seeds, tuple(remarks(scored)))


def _estimates(table: Path, scored: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    estimates = read_csv(table, ESTIMATE, [*numbers, "value", "value_low", "value_high"])
    if other := by_method(estimates).keys() - by_method(scored).keys():
        raise UserError(f"{table} is not a table of these scores: it has {other.pop().label}")
    return estimates


def _rows(scored: pd.DataFrame, name: tuple[str, str], method: Method) -> pd.DataFrame:
    return scored[(scored[[*TASK, *METHOD]] == (*name, *method)).all(axis=1)]


def _with_seeds(rows: pd.DataFrame, method: Method) -> str:
    """The method's label, and for an agent its number of seeds per task, fewest to most."""
    if method.policy != "agent":
        return method.label
    counts = rows.groupby(TASK)["seed"].nunique()
    few, many = counts.min(), counts.max()
    span = f"{few}" if few == many else f"{few} to {many}"
    return f"{method.label} ({span} seed{'s' if many > 1 else ''})"


def _methods(paths: Iterable[Path]) -> dict[Method, Path]:
    """Folders of pre-training or prediction runs by model and dataset, in the legend's order."""
    found: dict[Method, Path] = {}
    for folder in map(folder_of, paths):
        run = read_identity(folder, "dataset", "model")
        method = Method("agent", run["model"], run["dataset"], "standard")
        if method in found:
            raise UserError(f"{folder} and {found[method]} are both {method.label}")
        found[method] = folder
    if not found:
        raise UserError("no runs to draw")
    return {method: found[method] for method in in_order(found)}


def _shown(folders: Iterable[Path], notes: Iterable[str] = ()) -> Shown:
    identities = [read_identity(folder, "stage", "scale") for folder in folders]
    if len(scales := {run["scale"] for run in identities}) > 1:
        raise UserError(f"a figure shows one scale, but these runs are of {', '.join(scales)}")
    runs = tuple(f"{run['stage']}/{run['dataset']}/{run['model']}" for run in identities)
    return Shown(scales.pop(), runs, {run: 1 for run in runs}, tuple(notes))


def _losses(row: Sequence[Axes], method: Method, look: Look, folder: Path) -> list[str]:
    """Training losses as lines and held-out ones as dots in the first two panels of `row`.

    Returns remarks on values that cannot be drawn, as of a training that diverged.
    """
    metrics = read_metrics(folder, ["train/image", "train/kl"])
    notes = []
    for ax, name in zip(row[:2], ("image", "kl"), strict=True):
        for split, style in (
            ("train", {"lw": 0.8}),
            ("heldout", {"ls": "", "marker": look.marker}),
        ):
            if (column := f"{split}/{name}") not in metrics:
                continue
            known = metrics[np.isfinite(metrics[column])]
            label = model_label(method.model) + (", held out" if split == "heldout" else "")
            ax.plot(known["step"], known[column], color=look.colour, label=label, **style)
            if lost := np.isinf(metrics[column]).sum():
                notes.append(f"{method.label}: {lost} values of {column} are not finite.")
        panels.fit_to_end(ax)
    return notes


def _errors(row: Sequence[Axes], method: Method, look: Look, folder: Path) -> None:
    """Prediction errors by horizon in the last two panels of `row`."""
    columns = ("mse", "mse_moving")
    numbers = ["clip", "t", *columns, *(f"repeat_{column}" for column in columns)]
    frames = read_csv(folder / "errors.csv", ["phase"], numbers)
    if set(frames["phase"]) != {"observed", "predicted"}:
        raise UserError(f"{folder / 'errors.csv'} has not both observed and predicted frames")
    for ax, column in zip(row[2:], columns, strict=True):
        errors = by_horizon(frames, column)
        panels.line(ax, errors["ahead"], errors, model_label(method.model), look)
        repeated = by_horizon(frames, f"repeat_{column}").set_index("ahead")["value"]
        panels.repeated(ax, repeated)


def _instants(observed: int, length: int) -> np.ndarray:
    """At most STRIP frames of a clip: some observed, the last among them, and more predicted."""
    before = np.unique(np.linspace(0, observed - 1, min(3, observed)).astype(int))
    after = np.linspace(observed, length - 1, min(STRIP - len(before), length - observed))
    return np.concatenate([before, after.astype(int)])

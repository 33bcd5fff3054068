"""Write small synthetic studies to disk in the documented formats."""

import csv
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

SCORES = ["step", "episode", "return", "success", "length", "split"]


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_csv(path: Path, heading: list[str], rows: Iterable[Iterable]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([heading, *rows])


def identity(**fields: object) -> dict:
    return {
        "stage": "finetune",
        "scale": "laptop",
        "command": "cwm finetune toy/sphere",
        "commit": "c0ffee",
        "versions": {"torch": "2.13.0"},
        "key": "abc123",
        **fields,
    }


def finetune(
    root: Path,
    curve: dict[int, list[float]],
    *,
    task: str = "toy/sphere",
    method: str = "contextwm/something/standard",
    seed: int = 0,
    success: bool = False,
    scale: str = "laptop",
) -> Path:
    """A fine-tuning run; `curve` maps an evaluation's step to its episode returns or successes."""
    suite, name = task.split("/")
    model, dataset, variant = method.split("/")
    folder = root / "finetune" / suite / name / model / dataset / variant / str(seed)
    names = {"suite": suite, "task": name, "model": model, "dataset": dataset, "variant": variant}
    write_json(folder / "run.json", identity(**names, seed=seed, scale=scale))
    rows = [[1, 0, -99.0, int(success) if success else "", 10, "train"]]
    for step, returns in curve.items():
        for episode, value in enumerate(returns):
            shown = [10 * value, value] if success else [value, ""]
            rows.append([step, episode, *shown, 10, "eval"])
    write_csv(folder / "scores.csv", SCORES, rows)
    return folder


def baselines(root: Path, levels: dict[str, float], *, task: str = "toy/sphere", success=False):
    """Baseline policies with these mean scores, over two seeds of one episode each."""
    suite, name = task.split("/")
    folder = root / "baselines" / suite / name
    write_json(folder / "run.json", identity(stage="baselines", suite=suite, task=name))
    rows = [
        [policy, seed, 0, value + seed - 0.5, value if success else "", 10]
        for policy, value in levels.items()
        for seed in (0, 1)
    ]
    heading = ["policy", "seed", "episode", "return", "success", "length"]
    write_csv(folder / "scores.csv", heading, rows)
    return folder


def pretrain(
    root: Path, model: str, dataset: str = "something", updates: int = 300, seed: int = 0
) -> Path:
    folder = root / "pretrain" / dataset / model / str(seed)
    names = {"dataset": dataset, "model": model, "seed": seed}
    write_json(folder / "run.json", identity(stage="pretrain", **names))
    better = 0.9 if model == "contextwm" else 1.0
    lines = []
    for step in range(10, updates + 1, 10):
        line = {"step": step, "train/kl": 20 - 15 * np.exp(-step / 80)}
        line["train/image"] = 11300 + better * 60 + 900 * np.exp(-step / 40)
        if step % 100 == 0:
            line["heldout/image"] = line["train/image"] + 8
            line["heldout/kl"] = line["train/kl"]
            for where, factor in (("", 1), ("_moving", 3)):
                line[f"heldout/prediction{where}"] = factor * better * (0.01 + 1 / step)
                line[f"heldout/repeat{where}"] = factor * 0.014
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def predict(
    root: Path, model: str, dataset: str = "something", clips: int = 4, seed: int = 0
) -> Path:
    folder = root / "predict" / dataset / model / str(seed)
    names = {"dataset": dataset, "model": model, "seed": seed}
    write_json(folder / "run.json", identity(stage="predict", **names))
    rng = np.random.default_rng(0)
    observed, length = 4, 12
    rows = []
    for clip in range(clips):
        for t in range(length):
            wrong = (0.01 if model == "contextwm" else 0.015) * (1 + max(0, t - observed)) ** 0.5
            wrong *= (0.8 + 0.4 * clip / clips) * (1 + 0.1 * seed)
            still = 0.004 * max(0, t - observed + 1)
            phase = "observed" if t < observed else "predicted"
            moving = "" if t == observed - 1 else 3 * wrong  # nothing has moved yet
            likeness = [0.8 - 10 * wrong, "" if moving == "" else 0.5 - 10 * wrong]
            rows.append([clip, t, phase, wrong, moving, *likeness, still, 5 * still, 0.7, 0.3])
    errors = [
        by + x for by in ("", "repeat_") for x in ("mse", "mse_moving", "ssim", "ssim_moving")
    ]
    heading = ["clip", "t", "phase", *errors]
    write_csv(folder / "errors.csv", heading, rows)
    truth = np.stack([_film(rng.uniform(0, 255, 3), length) for _ in range(clips)])
    noise = rng.normal(0, 12 if model == "contextwm" else 25, truth.shape)
    film = (truth + noise).clip(0, 255).astype(np.uint8)
    arrays = {"truth": truth, "model": film, "observed": np.array(observed), "decoded": film}
    if model == "contextwm":
        other = np.roll(np.arange(clips), -1)
        context = truth[:, observed - 1]
        attention = rng.dirichlet(np.ones(256), (clips, length)).reshape(clips, length, 16, 16)
        attention[:, observed - 1] = np.nan
        moves = rng.random(attention.shape) < 0.2
        arrays |= {"context": context, "attention": attention, "moves": moves, "other": other}
        arrays["recomposed"] = film[other]  # equals the clip of the context
    np.savez(folder / "predictions.npz", **arrays)
    return folder


def represent(
    root: Path, model: str, clips: int = 30, heldout: int = 2, planted: bool = True
) -> Path:
    """Features of clips of two labels; if `planted`, one feature separates the labels."""
    folder = root / "represent/something" / model / "0"
    names = {"dataset": "something", "model": model, "seed": 0}
    write_json(folder / "run.json", identity(stage="represent", **names))
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], clips)
    features, untrained = rng.normal(size=(2, 2 * clips, 40))
    features[:, 7] += 9 * label * planted
    np.savez(
        folder / "features.npz",
        features=features,
        untrained=untrained,
        label=label,
        heldout=np.tile(np.arange(clips) < heldout, 2),
        labels=np.array(["to-the-right", "to-the-left"]),
    )
    return folder


def invariance(root: Path, model: str, pair: float, seed: int = 0) -> Path:
    """Two pairs of looks; trained, shadows agree by `pair` and other motions by 0.5."""
    folder = root / "invariance/something" / model / str(seed)
    names = {"dataset": "something", "model": model, "seed": seed}
    write_json(folder / "run.json", identity(stage="invariance", **names))
    rows = []
    for one, other in (("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")):
        better = 0.1 * (one in "cd")
        rows.append(["trained", one, other, pair + better, 0.5, float(pair > 0.5)])
        rows.append(["untrained", one, other, 0.5, 0.5, 0.5])
    columns = ["model", "look", "shadow", "pair", "others", "closer"]
    write_csv(folder / "invariance.csv", columns, rows)
    return folder


def adaptation(
    root: Path, model: str, seed: int = 0, times: float = 1, recorded: str = "sphere"
) -> Path:
    """Errors of two windows, 0.1 and 0.2 one frame ahead; shuffled 3 and none 2 times as large."""
    folder = root / "adapt" / recorded / "none" / model / str(seed)
    names = {"recorded": recorded, "dataset": "none", "model": model, "seed": seed}
    write_json(folder / "run.json", identity(stage="adapt", **names))
    rows = []
    for actions, factor in (("true", 1), ("shuffled", 3), ("none", 2)):
        for clip, ahead in itertools.product((0, 1), (1, 2)):
            error = times * factor * 0.1 * (clip + 1) * ahead
            rows.append([clip, actions, ahead, error, ""])
    write_csv(folder / "action_errors.csv", ["clip", "actions", "ahead", "mse", "mse_moving"], rows)
    return folder


def benchmark(folder: Path, wall: float, processor: float | str) -> Path:
    """Write a benchmark.tsv as Snakemake does."""
    (folder / "benchmark.tsv").write_text(f"s\tmean_load\tcpu_time\n{wall}\t50\t{processor}\n")
    return folder


def timing(folder: Path, stamps: list[float], processor: list[float] | None) -> None:
    """Write a timing.jsonl with these time stamps and, unless None, processor seconds."""
    lines: list[dict[str, float]] = [{"time": 1e9 + x} for x in stamps]
    for line, seconds in zip(lines, processor or [], strict=False):
        line["processor"] = seconds
    (folder / "timing.jsonl").write_text("\n".join(map(json.dumps, lines)))


def _film(colour: np.ndarray, length: int) -> np.ndarray:
    """A disc moving right over a shaded background, (T, 64, 64, 3)."""
    y, x = np.mgrid[:64, :64]
    film = np.empty((length, 64, 64, 3), np.uint8)
    for t in range(length):
        ground = np.stack([x * 2 + 60, y * 2 + 40, x + y + 50], axis=-1)
        disc = (x - 8 - 4 * t) ** 2 + (y - 36) ** 2 < 90
        film[t] = np.where(disc[..., None], colour, ground).astype(np.uint8)
    return film


def whole(root: Path) -> tuple[list[Path], list[Path]]:
    """A study like `laptop`: one task with all methods, others with few runs."""
    rng = np.random.default_rng(1)
    steps = range(0, 2001, 250)

    def curve(low: float, high: float, rate: float) -> dict[int, list[float]]:
        rate *= rng.uniform(0.6, 1.5)
        top = high * rng.uniform(0.92, 1.03)
        mean = {step: low + (top - low) * (1 - np.exp(-rate * step / 500)) for step in steps}
        return {step: list(rng.normal(value, 0.6, 5).round(4)) for step, value in mean.items()}

    runs = []
    for method, seeds, rate in [
        ("contextwm/something/standard", 5, 1.4),
        ("contextwm/rlbench/standard", 2, 1.2),
        ("contextwm/none/standard", 2, 0.7),
        ("plain/something/standard", 2, 0.9),
        ("plain/none/standard", 2, 0.5),
        ("dreamer/none/standard", 2, 0.6),
        ("contextwm/something/no-bonus", 1, 1.0),
    ]:
        runs += [finetune(root, curve(7, 16, rate), method=method, seed=i) for i in range(seeds)]
    for method in ("contextwm/something/standard", "contextwm/none/standard"):
        for task in ("metaworld/reach", "metaworld/drawer-open"):
            flat = {step: [0, 0, 0, int(rng.random() < 0.2)] for step in (250, 500)}
            runs.append(finetune(root, flat, task=task, method=method, success=True))
        runs.append(finetune(root, curve(95, 130, 0.3), task="dmc/cartpole-swingup", method=method))
    other = [
        baselines(root, {"random": 7.1, "constant": 7.6, "untrained": 6.0}),
        baselines(root, dict(random=96, constant=122, untrained=90), task="dmc/cartpole-swingup"),
    ]
    for task in ("metaworld/reach", "metaworld/drawer-open"):
        zero = {"random": 0.0, "constant": 0.0, "untrained": 0.0}
        other.append(baselines(root, zero, task=task, success=True))
    return runs, other


def store(root: Path, dataset: str, ok: int, failed: dict[str, int] | None = None) -> Path:
    """A clip store's store.json with `ok` clips and the reasons of failed files, with counts."""
    path = root / "clips" / dataset / "store.json"
    failed = failed or {}
    counts = {"ok": ok, "failed": sum(failed.values())}
    clips = {"train": ok - 1, "heldout": 1}
    info = {"dataset": dataset, "videos": counts, "clips": clips, "frames": 25 * ok}
    info |= {"reasons": failed, "bytes": 123, "sizes": {"128 x 96": ok}, "seconds": 90}
    info |= {"labels": ["left", "right"], "variety": {"scene": ok}, "geometry": {"stride": 1}}
    info |= {"shards": {}, "frame_shape": [64, 64, 3], "frame_bytes": 12288}
    info["sha256"] = {"manifest": "5ha256", "index": "1ndex", "content": "c0ntent"}
    write_json(path, info)
    path.with_name("contact.png").write_bytes(dataset.encode())
    return path

"""Model card of a run: kind of model, data, results, licence and limits."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

KINDS = {
    "pretrain": "An action-free world model: it predicts video frames and selects no actions.",
    "adapt": "A world model with actions, trained on recorded episodes: it has no policy.",
    "finetune": "A world model with actions, an actor and a critic: an agent for this task.",
    "convert": "The authors' weights, converted.",
}


def model_card(folder: Path, run: dict[str, Any], data: str) -> str:
    """Markdown of the card. run: content of run.json. data: a sentence about the dataset."""
    names = ("suite", "task", "recorded", "model", "dataset", "variant", "seed")
    title = ", ".join(f"{name} {run[name]}" for name in names if name in run)
    facts = {
        "What": KINDS[run["stage"]],
        "Data": data,
        "Scale": f"{run.get('scale', 'paper')}; every setting is in config.yaml",
        "Measured": "; ".join(_measured(folder)) or "nothing",
        "Config hash": run["key"],
        "Inputs (sha256)": ", ".join(f"{k} {v[:12]}" for k, v in run["inputs"].items()) or "none",
        "Made by": f"`{run['command']}`, commit {run['commit']}",
        "Licence": "as the code (LICENSE), unless the licences of the data forbid it",
        "Limits": (
            "for research, on 64 x 64 frames similar to its data. A model below paper scale shows "
            "that the method runs; it says nothing about the paper's results"
        ),
    }
    return "\n".join([f"# {title}", "", *(f"- **{k}**: {v}" for k, v in facts.items()), ""])


def _measured(folder: Path) -> Iterator[str]:
    """Figures of the last evaluation: scores of an agent, or losses on held-out clips."""
    if (scores := folder / "scores.csv").exists():
        with scores.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "eval"]
        last = [row for row in rows if row["step"] == rows[-1]["step"]]
        for name in ("return", "success"):
            if last and last[0][name]:
                mean = fmean(float(row[name]) for row in last)
                yield f"mean {name} of {len(last)} episodes at step {last[0]['step']}: {mean:.3g}"
    elif (metrics := folder / "metrics.jsonl").exists():
        last = json.loads(metrics.read_text().splitlines()[-1])
        yield from (f"{k} {v:.3g}" for k, v in last.items() if k.startswith("heldout/"))

"""Save a figure as STEM.pdf and STEM.png, with its caption and provenance in STEM.json."""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from matplotlib.figure import Figure

from cwm.analysis.runs import common_scale
from cwm.analysis.style import GREY, scale_note
from cwm.infra.run_json import read_run

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs about 100 lines at INFO


@dataclass(frozen=True)
class FigureMeta:
    """What the caller knows about a figure. `notes` are sentences for the caption."""

    title: str
    command: str  # draws the figure again
    commit: str  # of the drawing code
    claim: str = ""  # the paper's claim that the figure tests
    notes: tuple[str, ...] = ()
    config: str = ""  # the study file that defines the figure
    data: tuple[Path, ...] = ()  # input files or run folders


@dataclass(frozen=True)
class FigureData:
    """What the data say about a figure: its runs, seeds per method, and caveats."""

    scale: str
    runs: tuple[str, ...]
    seeds: dict[str, int]
    caveats: tuple[str, ...] = ()


def figure_data(folders: Iterable[Path], caveats: Iterable[str]) -> FigureData:
    """Describe runs of pre-trained models; UserError if their scales differ."""
    runs = [read_run(folder, "stage", "scale", "dataset", "model", "seed") for folder in folders]
    methods = [f"{run['stage']}/{run['dataset']}/{run['model']}" for run in runs]
    names = tuple(f"{name}/{run['seed']}" for name, run in zip(methods, runs, strict=True))
    scale = common_scale(run["scale"] for run in runs)
    return FigureData(scale, names, dict(Counter(methods)), tuple(caveats))


def save(figure: Figure, out: Path, description: str, data: FigureData, meta: FigureMeta) -> None:
    """Write the three files; equal figures give equal bytes.

    Below paper scale the picture itself names the scale, because pictures are copied without
    their captions.
    """
    scale = scale_note(data.scale)
    if data.scale != "paper":
        figure.suptitle(scale, fontsize=5.5, color=GREY, x=0.995, ha="right")
    out.parent.mkdir(parents=True, exist_ok=True)
    undated = {"pdf": {"CreationDate": None, "ModDate": None}, "png": {"Software": None}}
    for suffix, metadata in undated.items():
        figure.savefig(out.with_name(f"{out.name}.{suffix}"), metadata=metadata)
    hashes = {
        path.as_posix(): sha256(path.read_bytes()).hexdigest() for path in map(_file, meta.data)
    }
    facts = {
        "title": meta.title,
        "caption": " ".join([description, *meta.notes, scale]),
        "notes": list(data.caveats),
        "scale": data.scale,
        "claim": meta.claim,
        "runs": sorted(data.runs),
        "seeds": data.seeds,
        "command": meta.command,
        "commit": meta.commit,
        "config": meta.config,
        "data": hashes,
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    out.with_name(f"{out.name}.json").write_text(text, encoding="utf-8")


def _file(path: Path) -> Path:
    """The file whose hash identifies an input; for a run folder, its run.json."""
    return path / "run.json" if path.is_dir() else path

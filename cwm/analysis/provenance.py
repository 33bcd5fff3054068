"""Save a figure as STEM.pdf and STEM.png, with its caption and provenance in STEM.json."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from typing_extensions import TypedDict

from cwm.analysis.runs import common_scale
from cwm.analysis.style import GREY, scale_note
from cwm.infra.files import sha256
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
    too_short: bool = False  # the runs are too short to show learning
    missing: tuple[str, ...] = ()  # runs that the figure should show and lacks
    config: str = ""  # the study file that defines the figure
    data: tuple[Path, ...] = ()  # input files or run folders


class Answer(TypedDict):
    """The answer to a question of a study, and the difference that it follows from."""

    question: str
    measure: str
    answer: str
    difference: str  # with its interval


class FigureJson(TypedDict):
    """Content of STEM.json."""

    title: str
    caption: str
    details: str
    notes: list[str]  # caveats
    answers: list[Answer]
    scale: str
    claim: str
    too_short: bool
    runs: list[str]
    seeds: dict[str, int]
    command: str
    commit: str
    config: str
    data: dict[str, str]  # input file -> sha256


class Drawing(NamedTuple):
    """A figure, and what its data say about it."""

    figure: Figure
    caption: str  # what is shown: one or two sentences
    details: str  # how it was computed
    scale: str
    runs: Sequence[str]
    seeds: dict[str, int]  # per method
    caveats: Sequence[str]
    answers: Sequence[Answer] = ()


def drawing_of_runs(
    figure: Figure, caption: str, details: str, folders: Iterable[Path], caveats: Sequence[str]
) -> Drawing:
    """A drawing of runs of pre-trained models; UserError if their scales differ."""
    runs = [read_run(folder, "stage", "scale", "dataset", "model", "seed") for folder in folders]
    given = [run.get("recorded", "") for run in runs]  # by stage adapt only
    methods = [
        "/".join(filter(None, [run["stage"], on, run["dataset"], run["model"]]))
        for run, on in zip(runs, given, strict=True)
    ]
    names = [f"{name}/{run['seed']}" for name, run in zip(methods, runs, strict=True)]
    scale = common_scale(run["scale"] for run in runs)
    return Drawing(figure, caption, details, scale, names, dict(Counter(methods)), caveats)


def save(drawing: Drawing, out: Path, meta: FigureMeta) -> None:
    """Write the three files; equal figures give equal bytes.

    Below paper scale the picture itself names the scale, because pictures are copied without
    their captions.
    """
    figure, scale = drawing.figure, drawing.scale
    if scale != "paper":
        figure.suptitle(scale_note(scale), fontsize=5.5, color=GREY, x=0.995, ha="right")
    out.parent.mkdir(parents=True, exist_ok=True)
    undated = {"pdf": {"CreationDate": None, "ModDate": None}, "png": {"Software": None}}
    for suffix, metadata in undated.items():
        figure.savefig(out.with_name(f"{out.name}.{suffix}"), metadata=metadata)
    # Of a run folder, the run.json is hashed.
    files = [path / "run.json" if path.is_dir() else path for path in meta.data]
    notes, caveats = [*meta.notes], [*drawing.caveats]
    if meta.too_short:
        notes.append("Too short to show learning.")
    if meta.missing:
        notes.append(f"Runs missing: {len(meta.missing)}.")
        caveats.append(f"Missing runs: {', '.join(meta.missing)}.")
    facts: FigureJson = {
        "title": meta.title,
        "caption": " ".join([drawing.caption, *notes, scale_note(scale)]),
        "details": drawing.details,
        "notes": caveats,
        "answers": [*drawing.answers],
        "scale": scale,
        "claim": meta.claim,
        "too_short": meta.too_short,
        "runs": sorted(drawing.runs),
        "seeds": drawing.seeds,
        "command": meta.command,
        "commit": meta.commit,
        "config": meta.config,
        "data": {path.as_posix(): sha256(path) for path in files},
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    out.with_name(f"{out.name}.json").write_text(text, encoding="utf-8")

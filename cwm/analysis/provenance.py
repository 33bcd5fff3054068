"""A figure on disk: STEM.pdf and STEM.png to look at, STEM.json to say what it shows and whence."""

import json
import logging
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from matplotlib.figure import Figure

from cwm.analysis.style import GREY, scale_words

# Embedding fonts is told in a hundred lines to whoever logs at level INFO, as the command does.
logging.getLogger("fontTools").setLevel(logging.WARNING)


@dataclass(frozen=True)
class About:
    """What only the caller knows of a figure; `notes` are whole sentences for the caption."""

    title: str
    command: str  # that makes the figure again
    commit: str  # of the code that drew it
    claim: str = ""  # the paper's, that the figure speaks to
    notes: tuple[str, ...] = ()
    config: str = ""  # the file that says what it shows
    data: tuple[Path, ...] = ()  # the files that it is drawn from


@dataclass(frozen=True)
class Shown:
    """What the data know of a figure: seeds by method, and remarks on what is thin or missing."""

    scale: str
    runs: tuple[str, ...]
    seeds: dict[str, int]
    remarks: tuple[str, ...] = ()


def save(figure: Figure, out: Path, description: str, shown: Shown, about: About) -> None:
    """Write the three files of a figure; the same figure gives the same bytes.

    Below paper scale the picture itself carries the scale, since pictures travel without captions.
    """
    words = scale_words(shown.scale)
    if shown.scale != "paper":
        figure.suptitle(words, fontsize=5.5, color=GREY, x=0.995, ha="right")
    out.parent.mkdir(parents=True, exist_ok=True)
    undated = {"pdf": {"CreationDate": None, "ModDate": None}, "png": {"Software": None}}
    for suffix, metadata in undated.items():
        figure.savefig(out.with_name(f"{out.name}.{suffix}"), metadata=metadata)
    facts = {
        "title": about.title,
        "caption": " ".join([description, *about.notes, words]),
        "notes": list(shown.remarks),
        "scale": shown.scale,
        "claim": about.claim,
        "runs": sorted(shown.runs),
        "seeds": shown.seeds,
        "command": about.command,
        "commit": about.commit,
        "config": about.config,
        "data": {p.as_posix(): sha256(p.read_bytes()).hexdigest() for p in map(_file, about.data)},
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    out.with_name(f"{out.name}.json").write_text(text, encoding="utf-8")


def _file(path: Path) -> Path:
    """What stands for a run folder is its run.json."""
    return path / "run.json" if path.is_dir() else path

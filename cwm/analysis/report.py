"""The report: one HTML page with all figures, tables, data, episodes and runs embedded.

The page begins with the study's questions and their answers. It loads nothing from elsewhere, so it
is one file that opens offline.
"""

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from cwm.analysis.data import data_page
from cwm.analysis.provenance import FigureJson
from cwm.analysis.runs import folder_of
from cwm.analysis.style import Method, scale_note
from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.run_json import LABELS, read_run

PNG = "image/png"


def write_report(
    scale: str,
    figures: Sequence[Path],
    tables: Sequence[Path],
    stores: Sequence[Path],
    episodes: Sequence[Path],
    out: Path,
    runs: Sequence[Path] = (),
) -> None:
    """Write the page to `out`; UserError naming a file that is missing or broken.

    figures: STEM.json with STEM.png beside it. tables: STEM.md, shown below the figure of the same
    name if there is one. stores: store.json with contact.png beside it.
    episodes: .mp4 in run folders. runs: run folders or files in them; those of the episodes are
    added.
    """
    texts = {path.stem: _table(path) for path in tables}
    sections = [_figure(path) | {"table": texts.pop(path.stem, None)} for path in figures]
    folders = dict.fromkeys(folder_of(path) for path in [*runs, *episodes])
    listed = [read_run(folder, "stage", "commit", "key", "versions") for folder in folders]
    loader = FileSystemLoader(Path(__file__).parent)
    templates = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = templates.get_template("report.html.j2").render(
        scale=scale,
        scale_note=scale_note(scale),
        answers=[a | {"figure": f["name"]} for f in sections for a in f["answers"]],
        stages=Counter(run["stage"] for run in listed),
        figures=sections,
        tables=texts,
        stores=[_store(path) for path in stores],
        episodes=[_episode(path) for path in episodes],
        runs=listed,
        identity=("stage", *LABELS),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def _figure(path: Path) -> dict[str, Any]:
    """The content of a figure's STEM.json, with its picture as a data URL."""
    facts = json_file.read(path, FigureJson, remedy="draw the figure again")
    return {**facts, "name": path.stem, "picture": _embedded(path.with_suffix(".png"), PNG)}


def _table(path: Path) -> Markup:
    """A Markdown table as HTML, with any HTML, link or image in it kept as text."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(["link", "image", "autolink"])
    return Markup(reader.render(_bytes(path).decode(errors="replace")))


def _store(path: Path) -> dict[str, Any]:
    picture = _embedded(path.with_name("contact.png"), PNG)
    return {"page": data_page(path), "picture": picture}


def _episode(path: Path) -> dict[str, str]:
    run = read_run(path.parent, *LABELS)
    method = Method("agent", run["model"], run["dataset"], run["variant"])
    title = f"{run['suite']}/{run['task']}: {method.label}, seed {run['seed']}"
    return {"title": title, "film": _embedded(path, "video/mp4")}


def _embedded(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(_bytes(path)).decode()}"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error

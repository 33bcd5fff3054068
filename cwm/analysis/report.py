"""One page with everything a study found: figures, tables, data, episodes and runs, all embedded.

Nothing on the page is loaded from elsewhere, so it opens offline, from anywhere, as one file.
"""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from cwm.analysis.data import data_page
from cwm.analysis.runs import folder_of, read_identity
from cwm.analysis.style import Method, scale_words
from cwm.infra import json_file
from cwm.infra.errors import UserError

PNG = "image/png"
FAILURES_SHOWN = 200  # files per dataset; the manifest has them all
IDENTITY = ("stage", "suite", "task", "model", "dataset", "variant", "seed")


def write_report(
    scale: str,
    figures: Sequence[Path],
    tables: Sequence[Path],
    stores: Sequence[Path],
    episodes: Sequence[Path],
    out: Path,
    runs: Sequence[Path] = (),
) -> None:
    """Write the page to `out`.

    figures: STEM.json files with the STEM.png beside them. tables: STEM.md files; one named like a
    figure is shown below it. stores: store.json files with what `cwm clips` puts beside them.
    episodes: .mp4 files in run folders. runs: run folders, or a file in each; those of the episodes
    are added. Raises UserError naming a file that is missing or broken.
    """
    texts = {path.stem: _table(path) for path in tables}
    sections = [_figure(path) | {"table": texts.pop(path.stem, None)} for path in figures]
    folders = dict.fromkeys(folder_of(path) for path in [*runs, *episodes])
    identities = [read_identity(folder, "stage", "commit", "key", "versions") for folder in folders]
    page = _template().render(
        scale=scale,
        scale_words=scale_words(scale),
        figures=sections,
        tables=texts,
        stores=[_store(path) for path in stores],
        episodes=[_episode(path) for path in episodes],
        runs=_runs(identities),
        versions=_versions(identities),
        identity=IDENTITY,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def _template() -> Any:
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("report.html.j2")


def _figure(path: Path) -> dict[str, Any]:
    """The figure's facts, and its picture as a data URL."""
    facts = ("title", "caption", "claim", "notes", "runs", "seeds", "command")
    facts += ("commit", "config", "data")
    picture = _embedded(path.with_suffix(".png"), PNG)
    return _complete(path, *facts) | {"name": path.stem, "picture": picture}


def _table(path: Path) -> Markup:
    """A Markdown table as HTML; what would be HTML, a link or a picture in it stays text."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(["link", "image", "autolink"])
    return Markup(reader.render(_bytes(path).decode(errors="replace")))


def _store(path: Path) -> dict[str, Any]:
    """The data page of a clip store, what it looks like, and its files that are not clips."""
    page = {"dataset": _complete(path, "dataset", "clips", "frames", "sha256")["dataset"]}
    page |= {"page": data_page(path), "picture": _embedded(path.with_name("contact.png"), PNG)}
    manifest = path.with_name("manifest.parquet")
    if "members" in json_file.read(path):
        return page | {"left_out": [], "unshown": 0}
    try:
        table = pd.read_parquet(manifest, columns=["file", "status", "reason"])
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        raise UserError(f"cannot read {manifest}: {error}") from error
    left_out = table[table["status"] != "ok"].sort_values(["status", "file"])
    return page | {
        "left_out": left_out.head(FAILURES_SHOWN).to_dict("records"),
        "unshown": max(0, len(left_out) - FAILURES_SHOWN),
    }


def _episode(path: Path) -> dict[str, str]:
    run = read_identity(path.parent, "suite", "task", "model", "dataset", "variant", "seed")
    method = Method("agent", run["model"], run["dataset"], run["variant"])
    title = f"{run['suite']}/{run['task']}: {method.label}, seed {run['seed']}"
    return {"title": title, "film": _embedded(path, "video/mp4")}


def _runs(identities: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of runs; versions are numbered, since most runs share them."""
    sets = _versions(identities)
    return [run | {"set": sets.index(run["versions"]) + 1} for run in identities]


def _versions(identities: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for run in identities:
        if run["versions"] not in found:
            found.append(run["versions"])
    return found


def _complete(path: Path, *keys: str) -> dict[str, Any]:
    content = json_file.read(path)
    if missing := [key for key in keys if key not in content]:
        raise UserError(f"{path} lacks {', '.join(missing)}")
    return content


def _embedded(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(_bytes(path)).decode()}"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error

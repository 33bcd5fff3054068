"""The code blocks of the documentation, and how they are run.

A block of `bash` or `python` is run, unless its title begins with NOT_RUN. Any other block with a
title is a file of that name. The blocks of a page are run in order, in one folder.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from cwm.infra.source import copy_study

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NOT_RUN = "Not run by the tests: "


class Block(NamedTuple):
    """A fenced code block."""

    place: str  # page and line
    language: str
    title: str
    text: str

    @property
    def runs(self):
        return self.language in ("bash", "python") and not self.title


def blocks(page):
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "fence":
            title = re.search('title="(.*?)"', token.info)
            place = f"{page.relative_to(ROOT)}:{token.map[0] + 1}"
            language = token.info.split(maxsplit=1)[0] if token.info else ""
            yield Block(place, language, title[1] if title else "", token.content)


def copy_project(folder):
    """What a study needs, where the `laptop` scale and study have the size of `smoke`."""
    copy_study(folder)
    for kind in ("scale", "study"):
        text = (ROOT / f"config/{kind}/smoke.yaml").read_text()
        text = text.replace("parts: 2", "parts: 1")  # as the scale `laptop` has
        (folder / f"config/{kind}/laptop.yaml").write_text(text)
    return folder


def run(page, folder):
    """Run the blocks of a page in a folder; the first that fails is an AssertionError."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PYTHONPATH": f"{folder}:{ROOT}"}
    for block in blocks(page):
        if block.runs:
            shell = ("bash", "-euo", "pipefail") if block.language == "bash" else (sys.executable,)
            command = [*shell, "-c", block.text]
            done = subprocess.run(
                command, cwd=folder, env=variables, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{block.place}\n{(done.stdout + done.stderr)[-3000:]}"
        elif block.title and not block.title.startswith(NOT_RUN):
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)

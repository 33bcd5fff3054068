"""Checks of figure files."""

import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.colors import to_rgb

from cwm.analysis.provenance import FigureMeta

META = FigureMeta("Title", "snakemake fig_x", "c0ffee", claim="It helps.", notes=("Too short.",))


def facts(stem: Path) -> dict:
    return json.loads(stem.with_suffix(".json").read_text())


def shows(stem: Path, colour: str) -> bool:
    """Whether the PNG has pixels of about this colour."""
    image = matplotlib.image.imread(stem.with_suffix(".png"))[..., :3]
    return bool((np.abs(image - to_rgb(colour)).max(axis=-1) < 0.03).sum() > 5)


def assert_embedded(pdf: Path) -> None:
    """Fonts are embedded as TrueType, and the PDF has no date."""
    content = pdf.read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert not re.search(rb"/(CreationDate|ModDate)", content)

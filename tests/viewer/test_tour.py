"""The notebook docs/tour.ipynb: its cells run in order, on any study's models."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/tour.ipynb"
PLACES = {
    "contextwm": "pretrain/something/contextwm/0",
    "plain": "pretrain/something/plain/0",
    "agent": "finetune/toy/sphere/contextwm/something/standard/0",
}


def run():
    """Run the code cells in one namespace, as Jupyter does; returns their number."""
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    namespace = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"code cell {number}", "exec"), namespace)
    return len(cells)


def test_every_cell_runs_from_any_folder(made, tmp_path, monkeypatch):
    for name, place in PLACES.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).symlink_to(made / name)
    monkeypatch.chdir("/")
    monkeypatch.setenv("CWM_RESULTS", str(tmp_path))
    plt.switch_backend("Agg")
    try:
        assert run() > 10
        assert len(plt.get_fignums()) > 5
    finally:
        plt.close("all")


def test_missing_models_are_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CWM_RESULTS", str(tmp_path))
    with pytest.raises(SystemExit, match=f"{tmp_path} lacks models: set CWM_RESULTS to"):
        run()


def test_notebook_is_committed_without_outputs():
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert cell.get("outputs", []) == []

"""Event files have every point of the run folders once, as TensorBoard itself reads them."""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cwm.infra import tracking
from cwm.infra.errors import UserError
from cwm.infra.event_file import write_event_files
from cwm.infra.run_dir import RunDir, RunSpec

LABELS = {"scale": "smoke", "dataset": "squares", "model": "plain", "seed": 3}
SPEC = RunSpec("pretrain", "squares", LABELS, {}, {})
GROUPS = {"world": {"x": torch.ones(2)}}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "sync", lambda *_, **__: True)  # MLflow has tests of its own


def points(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of the only run in `out`."""
    (file,) = out.rglob("*tfevents*")
    assert file.parent == out / "pretrain/smoke/plain/squares/3" / SPEC.key
    run = EventAccumulator(str(file.parent)).Reload()
    names = run.Tags()["scalars"]
    return {name: [(at.step, at.value) for at in run.Scalars(name)] for name in names}


def test_each_point_appears_once_after_resume_and_publish():
    results, out = Path("results"), Path("out")
    with RunDir(SPEC, results / "smoke/pretrain/squares", 0.0) as run:
        run.log(1, {"train/kl": 0.5, "train/image": 8.0}, 1.0)
        run.checkpoint(1, GROUPS)
        run.log(2, {"train/kl": 0.25}, 1.0)
        assert write_event_files([results], out) == 1
        run.log(3, {"train/kl": 0.75}, 1.0)
    assert points(out) == {"train/kl": [(1, 0.5), (2, 0.25)], "train/image": [(1, 8.0)]}
    with RunDir(SPEC, results / "smoke/pretrain/squares", 0.0) as run:
        run.resume()
        run.log(2, {"train/kl": 0.25}, 1.0)
        assert write_event_files([run.folder], out) == 1
        assert points(out)["train/kl"] == [(1, 0.5), (2, 0.25)]
        run.log(3, {"train/kl": 0.75}, 1.0)
        run.publish("metrics.jsonl", "timing.jsonl")
    assert write_event_files([results], out) == 1
    assert points(out) == {"train/kl": [(1, 0.5), (2, 0.25), (3, 0.75)], "train/image": [(1, 8.0)]}


def test_point_has_the_time_at_which_it_was_logged():
    with RunDir(SPEC, Path("results/smoke/pretrain/squares"), 0.0) as run:
        run.log(1, {"loss": 1.0}, 1.0)
        logged = json.loads((run.folder / "timing.jsonl").read_text())["time"]
        write_event_files([run.folder], Path("out"))
    (file,) = Path("out").rglob("*tfevents*")
    (point,) = EventAccumulator(str(file.parent)).Reload().Scalars("loss")
    assert point.wall_time == pytest.approx(logged, abs=1e-3)


def test_place_without_runs_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no metrics\.jsonl in nowhere; name a run's folder"):
        write_event_files([Path("nowhere")], tmp_path / "out")


def test_label_cannot_lead_out_of_the_folder(tmp_path):
    """A model's run.json may come from somebody else."""
    with RunDir(SPEC, Path("results/smoke/pretrain/squares"), 0.0) as run:
        run.log(1, {"loss": 1.0}, 1.0)
        about = json.loads((run.folder / "run.json").read_text()) | {"model": "../../../../../up"}
        (run.folder / "run.json").write_text(json.dumps(about))
        with pytest.raises(UserError, match="has a label that leads out of out"):
            write_event_files([run.folder], Path("out"))
    assert not list(tmp_path.rglob("*tfevents*"))

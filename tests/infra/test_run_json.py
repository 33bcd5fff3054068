"""run.json is checked when it is read."""

import json

import pytest

from cwm.commands.run_spec import SECTIONS
from cwm.infra.errors import UserError
from cwm.infra.run_json import labels, read_run
from cwm.infra.tracking_record import LAST_FILE


def test_labels_have_a_fixed_order_and_are_text(tmp_path):
    run = {"seed": 3, "dataset": "squares", "model": "plain", "stage": "pretrain", "extra": [1]}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert list(labels(read_run(tmp_path)).items()) == [
        ("model", "plain"),
        ("dataset", "squares"),
        ("seed", "3"),
    ]


def test_missing_or_wrong_value_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "run.json").write_text('{"stage": "pretrain"}')
    with pytest.raises(UserError, match=r"run\.json lacks key, seed"):
        read_run(tmp_path, "stage", "key", "seed")
    (tmp_path / "run.json").write_text('{"seed": -1}')
    with pytest.raises(UserError, match=r"run\.json: seed"):
        read_run(tmp_path)


def test_every_stage_has_a_last_file():
    """MLflow shows runs of these stages only."""
    assert LAST_FILE.keys() == SECTIONS.keys()

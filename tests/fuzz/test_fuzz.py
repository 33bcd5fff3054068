"""Over a hundred damaged inputs of all kinds; `make fuzz` tries thousands."""

from pathlib import Path

import kinds
import pytest
from fuzz import attack

from cwm.infra import tracking

INPUTS = 120  # of all kinds together
NAMES = ["settings", "used", "videos", "archives", "stores", "weights", "official"]
NAMES += ["checkpoints", "tables"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as before:  # put back for other tests what `make` changes
        before.setattr(tracking, "_deliver", tracking._deliver)
        for name in ("MPLCONFIGDIR", "MLFLOW_TRACKING_URI"):
            before.setenv(name, "")
        yield {kind.__name__: (kind, share) for kind, share in kinds.make(folder).items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_a_result_or_one_line(made, name):
    assert list(made) == NAMES
    kind, share = made[name]
    counts, bad = attack(kind, round(share * INPUTS), seed=0)
    print(name, dict(counts))
    assert not bad, "\n\n".join(bad.values())
    assert counts["refused"], "no input was bad"

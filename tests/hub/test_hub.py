"""`cwm push`, `cwm pull` and `cwm.load("hf://...")` against a local Hub, in processes of their own.

huggingface_hub reads HF_ENDPOINT when it is imported.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_server import COMMIT, TOKEN, running
from squares import store, watch

import cwm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hub():
    with running() as hub:
        yield hub


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a pre-training run."""
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return watch(store(folder), folder / "run")


@pytest.fixture(scope="module")
def call(hub, tmp_path_factory):
    """Run `cwm` or Python in a new folder with the local Hub; returns the finished process."""

    def call(*words, token=TOKEN, endpoint=None, python=False):
        folder = tmp_path_factory.mktemp("call")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
        environment |= {"HF_ENDPOINT": endpoint or hub.address, "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_TOKEN": token} if token else {}
        program = [sys.executable, "-c"] if python else [Path(sys.executable).with_name("cwm")]
        command = [*program, *map(str, words)]
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        assert TOKEN not in done.stdout + done.stderr
        return done

    return call


@pytest.fixture(scope="module")
def pushed(call, model):
    done = call("push", model, "someone/squares")
    assert done.returncode == 0, done.stderr
    return done


def test_pushed_files_have_a_card_with_the_hubs_metadata(hub, pushed, model):
    assert pushed.stdout.strip() == f"{hub.address}/someone/squares"
    files = hub.repositories["someone/squares"]
    assert set(files) == {
        "README.md",
        "config.yaml",
        "run.json",
        "weights.json",
        "weights.safetensors",
    }
    assert files["weights.safetensors"] == (model / "weights.safetensors").read_bytes()
    assert hub.private["someone/squares"] is True
    _, front, card = files["README.md"].decode().split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["pipeline_tag"] == "image-to-video"
    assert metadata["license"] == "other"  # the licences of the data may forbid more
    assert {"contextwm", "action-free", "squares"} <= set(metadata["tags"])
    assert card.strip() == (model / "card.md").read_text().strip()


def test_pulled_model_predicts_as_the_original(call, pushed, model, tmp_path):
    done = call("pull", "someone/squares", "--out", tmp_path / "here", token=None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "here")
    clip = np.random.default_rng(0).integers(256, size=(1, 3, 64, 64, 3), dtype=np.uint8)
    ours, theirs = (cwm.load(place).predict(clip, 5) for place in (model, tmp_path / "here"))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["someone/squares", f"someone/squares@{COMMIT}"])
def test_load_downloads_by_name(call, pushed, name):
    code = f"import cwm; print(cwm.load('hf://{name}').about['dataset'])"
    done = call(code, python=True, token=None)
    assert (done.returncode, done.stdout) == (0, "squares\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (("pull", "someone/nothing"), None, "has no model someone/nothing, or it is private"),
        (("pull", "someone/squares", "--revision", "other"), None, "has no such revision"),
        (("pull", "a/b/c"), None, "'a/b/c' is not a name on the Hub"),
        (("push", "MODEL", "someone/squares"), None, "the token is missing or may not do this"),
        (("push", "MODEL", "someone/squares"), "hf_wrong", "the token is missing or may not"),
        (("push", ".", "someone/squares"), TOKEN, ". is not the folder of a finished model"),
    ],
)
def test_mistakes_are_one_line_errors(call, pushed, model, words, token, message):
    done = call(*(model if word == "MODEL" else word for word in words), token=token)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_full_or_forbidden_folder_is_not_called_a_network_error(call, pushed, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = call("pull", "someone/squares", "--out", tmp_path / "file/models")
    assert done.returncode != 0
    assert "cannot reach" not in done.stderr and "Not a directory" in done.stderr


def test_without_a_network_the_error_names_the_address(call):
    done = call("pull", "someone/other", endpoint="http://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.startswith("cwm: cannot reach http://127.0.0.1:9 for someone/other")
    assert len(done.stderr.splitlines()) == 1

"""Minari datasets in HDF5: values by hand, cameras and damage."""

import json

import h5py
import numpy as np
import pytest
from pyarrow import parquet
from recordings import bring_in, episode

from cwm.infra.errors import UserError


def write(root, groups, **metadata):
    """groups: name of an episode -> arrays by path."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    about = {"data_format": "hdf5", "total_episodes": len(groups)} | metadata
    (root / "data/metadata.json").write_text(json.dumps(about))
    with h5py.File(root / "data/main_data.hdf5", "w") as file:
        for name, arrays in groups.items():
            for path, array in arrays.items():
                file[f"{name}/{path}"] = array


def arrays(number, where="observations", **changes):
    recorded = episode(number)
    found = {where: recorded["image"], "actions": recorded["action"], "rewards": recorded["reward"]}
    ends = np.arange(5) == 4
    return found | {"terminations": ends, "truncations": np.zeros(5, bool)} | changes


def groups(**options):
    return {f"episode_{number}": arrays(number, **options) for number in (0, 1, 10)}


def test_store_has_the_frames_actions_and_rewards(tmp_path):
    write(tmp_path / "m", groups())
    store = bring_in(tmp_path / "m", tmp_path / "out")
    files = parquet.read_table(tmp_path / "out/manifest.parquet")["file"].to_pylist()
    assert files == ["episode_000000", "episode_000001", "episode_000010"]
    assert (store.read(2, 0, 6) == 100 + np.arange(6)[:, None, None, None]).all()
    steps = store.steps_of(np.array([1]), np.array([0]), 6)
    np.testing.assert_allclose(steps.action[0, :, 0], [0, 0, 0.1, 0.2, 0.3, 0.4], rtol=1e-5)
    np.testing.assert_array_equal(steps.reward[0], [0, 0, 1, 2, 3, 4])


def test_frames_may_be_a_part_of_the_observations(tmp_path):
    state = {"observations/state": np.zeros((6, 4))}
    both = {name: x | state for name, x in groups(where="observations/eyes/left").items()}
    write(tmp_path / "one", both)
    assert len(bring_in(tmp_path / "one", tmp_path / "out")) == 3
    for x in both.values():
        x["observations/top"] = np.zeros((6, 32, 32, 3), np.uint8)
    write(tmp_path / "two", both)
    with pytest.raises(UserError, match="has the cameras eyes/left, top; choose one by --camera"):
        bring_in(tmp_path / "two", tmp_path / "out")
    store = bring_in(tmp_path / "two", tmp_path / "out", camera="top")
    assert store.info["sizes"] == {"32 x 32": 3}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"actions": np.zeros((6, 2))}, "6 observations need 5 actions, not 6"),
        ({"rewards": np.zeros(4)}, "6 observations need 5 rewards, not 4"),
        ({"actions": np.full((5, 2), np.nan)}, "action is NaN or infinite in row 0"),
        ({"actions": np.zeros(5, int)}, "action has shape (5,), not (steps, values)"),
        ({"observations": np.zeros((6, 4))}, "observations is float64 (6, 4), not uint8"),
    ],
)
def test_a_bad_episode_is_rejected_with_its_reason(tmp_path, changes, reason):
    write(tmp_path / "m", groups() | {"episode_11": arrays(2, **changes)})
    bring_in(tmp_path / "m", tmp_path / "out")
    rows = parquet.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    assert reason in rows[-1]["reason"]


def test_unusable_dataset_is_an_error(tmp_path):
    root = tmp_path / "m"
    write(root, groups(), data_format="arrow")
    with pytest.raises(UserError, match=r"metadata.json: data_format arrow cannot be read; hdf5"):
        bring_in(root, tmp_path / "out")
    write(root, groups(), total_episodes=7)
    with pytest.raises(UserError, match=r"says 7 episodes, and main_data.hdf5 has 3"):
        bring_in(root, tmp_path / "out")
    write(root, groups(observations=np.zeros((6, 4))))
    with pytest.raises(UserError, match=r"has no camera: no uint8 frames"):
        bring_in(root, tmp_path / "out")
    write(root, groups())
    path = root / "data/main_data.hdf5"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"main_data.hdf5: cannot be read: "):
        bring_in(root, tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match=r"main_data.hdf5: cannot be read: "):
        bring_in(root, tmp_path / "out")
    write(root, groups())
    (root / "data/metadata.json").unlink()
    with pytest.raises(UserError, match=r"cannot read .*metadata.json: No such file"):
        bring_in(root, tmp_path / "out")

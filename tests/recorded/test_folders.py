"""Folders of .npz and HDF5 episodes: values by hand, damage by hand, resuming."""

import h5py
import numpy as np
import pytest
from pyarrow import parquet
from recordings import bring_in, episode, write_npz

from cwm.analysis.data import data_page
from cwm.infra.errors import UserError
from cwm.recorded import build
from cwm.recorded.episode import shrink
from cwm.videos.store import ClipStore


def manifest(out):
    rows = parquet.read_table(out / "manifest.parquet").to_pylist()
    return {row["file"]: row for row in rows}


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


@pytest.fixture
def source(tmp_path):
    """Six episodes: three .npz, three HDF5, one of them with the key `frames`."""
    folder = tmp_path / "source"
    for number in range(3):
        write_npz(folder / f"{number}.npz", **episode(number))
    for number in range(3, 6):
        arrays = episode(number)
        if number == 5:
            arrays["frames"] = arrays.pop("image")
        write_hdf5(folder / f"{number}.{'h5' if number == 3 else 'hdf5'}", **arrays)
    return folder


def test_store_has_the_frames_actions_and_rewards_of_every_episode(source, tmp_path):
    store = bring_in(source, tmp_path / "out")
    assert store.info["videos"] == {"ok": 6}
    assert store.info["experience"]["low"] == [-1, -1]
    for number in range(6):
        assert (store.read(number, 0, 6) == 10 * number + np.arange(6)[:, None, None, None]).all()
    steps = store.steps_of(np.array([4]), np.array([0]), 6)
    # The first frame has no step; row t of the file leads from frame t to frame t + 1.
    np.testing.assert_allclose(steps.action[0, :, 0], [0, 0, 0.1, 0.2, 0.3, 0.4], rtol=1e-5)
    np.testing.assert_allclose(steps.action[0, :, 1], [0] + [-0.4] * 5)
    np.testing.assert_array_equal(steps.reward[0], [0, 0, 1, 2, 3, 4])
    later = store.steps_of(np.array([4, 1]), np.array([2, 3]), 2)
    np.testing.assert_allclose(later.action[:, :, 1], [[-0.4] * 2, [-0.1] * 2])
    np.testing.assert_array_equal(later.reward, [[1, 2], [2, 3]])
    assert data_page(tmp_path / "out/store.json")["actions"] == "2 values, with rewards"


def test_a_row_for_each_frame_is_the_step_that_led_to_it(tmp_path):
    arrays = episode(1)
    for name in ("action", "reward"):
        rows = arrays[name]
        arrays[name] = np.concatenate([np.zeros_like(rows[:1]), rows])
    write_npz(tmp_path / "s/a.npz", **arrays)
    write_npz(tmp_path / "s/b.npz", **episode(1))
    store = bring_in(tmp_path / "s", tmp_path / "out")
    both = store.steps_of(np.array([0, 1]), np.array([0, 0]), 6)
    np.testing.assert_array_equal(both.action[0], both.action[1])
    np.testing.assert_array_equal(both.reward[0], both.reward[1])


BAD = {
    "more actions than frames": ({"action": np.zeros((7, 2))}, "6 frames need 5 or 6 rows"),
    "fewer actions": ({"action": np.zeros((4, 2))}, "6 frames need 5 or 6 rows of action, not 4"),
    "NaN": ({"action": np.array([[0, 0], [0, np.nan]] * 3)[:5]}, "action is NaN or infinite"),
    "infinite reward": ({"reward": np.full(5, np.inf)}, "reward is NaN or infinite in row 0"),
    "first row": ({"action": np.ones((6, 2))}, "row 0, the step that led to"),
    "rewards": ({"reward": np.zeros(9)}, "6 frames need 5 or 6 rows of reward, not 9"),
    "vectors": ({"action": np.zeros(5)}, "action has shape (5,), not (steps, values)"),
    "text": ({"action": np.array([["a"]])}, "action is <U1 (1, 1), not a list of numbers"),
    "float frames": ({"image": np.zeros((6, 64, 64, 3))}, "image is float64 (6, 64, 64, 3), not"),
    "grey frames": ({"image": np.zeros((6, 64, 64), np.uint8)}, "not uint8 (T, H, W, 3)"),
    "action size": ({"action": np.zeros((5, 3))}, "it has actions of 3 values, and a.npz has"),
    "frame size": ({"image": np.zeros((6, 32, 48, 3), np.uint8)}, "it has frames of 48 x 32, and"),
    "outside": ({"action": np.full((5, 2), 1.5)}, "action 1.5 (value 0 of the step to fr"),
    "no action": ({"action": None}, "it has no action"),
    "no frames": ({"image": None}, "it has neither image nor frames"),
    "no reward": ({"reward": None}, "it has no rewards, and a.npz has rewards"),
    "two kinds of frames": ({"frames": np.zeros(1)}, "it has image and frames"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "reason"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_a_bad_episode_is_rejected_with_its_reason(tmp_path, suffix, arrays, reason):
    if suffix == "h5" and reason.startswith("action is <U1"):
        pytest.skip("h5py writes no arrays of str")
    for name in "ab":
        write_npz(tmp_path / f"s/{name}.npz", **episode(1))
    content = {name: x for name, x in (episode(2) | arrays).items() if x is not None}
    write_npz(tmp_path / "s/c.npz", **content) if suffix == "npz" else write_hdf5(
        tmp_path / "s/c.h5", **content
    )
    store = bring_in(tmp_path / "s", tmp_path / "out")
    assert store.info["videos"] == {"ok": 2, "failed": 1}
    row = manifest(tmp_path / "out")[f"c.{suffix}"]
    assert row["status"] == "failed" and reason in row["reason"]


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_damaged_file_is_rejected(tmp_path, suffix, keep):
    for number in range(2):
        write_npz(tmp_path / f"s/{number}.npz", **episode(number))
    bad = tmp_path / f"s/bad.{suffix}"
    (write_npz if suffix == "npz" else write_hdf5)(bad, **episode(2))
    content = bad.read_bytes()
    bad.write_bytes(content[: keep if keep > 1 else int(keep * len(content))])
    bring_in(tmp_path / "s", tmp_path / "out")
    row = manifest(tmp_path / "out")[bad.name]
    assert row["status"] == "failed" and row["reason"].startswith("cannot be read: ")


def test_unusable_source_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere; expected: a LeRobot dataset"):
        bring_in(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no episodes in .*empty; expected: .* \.npz \.h5 \.hdf5"):
        bring_in(tmp_path / "empty", tmp_path / "out")
    for number in range(3):
        write_npz(tmp_path / f"s/{number}.npz", **episode(number) | {"action": np.zeros((1, 2))})
    with pytest.raises(UserError, match=r"3 of 3 episodes of .*/s are rejected: 0\.npz: 6 frames"):
        bring_in(tmp_path / "s", tmp_path / "out")
    assert not (tmp_path / "out/store.json").exists()
    with pytest.raises(UserError, match="a folder of episodes, which have no cameras to choose"):
        bring_in(tmp_path / "s", tmp_path / "out", camera="top")


def test_actions_are_scaled_by_given_or_observed_bounds(tmp_path):
    """The actions of two episodes are 0 to 4 in their first value, and 1 and 3 in the second."""
    for number, second in enumerate((1, 3)):
        action = np.stack([np.arange(5), np.full(5, second), np.full(5, 7)], 1)
        write_npz(tmp_path / f"s/{number}.npz", **episode(number) | {"action": action})
    given = bring_in(tmp_path / "s", tmp_path / "a", action_range=((0, 0, 6), (4, 4, 10)))
    np.testing.assert_allclose(given.steps.action[1:6, 0], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(given.steps.action[[1, 7], 1], [-0.5, 0.5])
    np.testing.assert_allclose(given.steps.action[1:6, 2], -0.5)
    observed = bring_in(tmp_path / "s", tmp_path / "b", action_range="observed")
    np.testing.assert_allclose(observed.steps.action[1:6, 0], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(observed.steps.action[[1, 7], 1], [-1, 1])
    assert (observed.steps.action[:, 2] == 0).all()  # a constant
    assert observed.info["experience"]["low"] == [0, 1, 6]
    assert (observed.steps.action[[0, 6]] == 0).all()
    with pytest.raises(UserError, match="needs one or 3 values of each bound"):
        bring_in(tmp_path / "s", tmp_path / "c", action_range=((0, 0), (4, 4)))
    with pytest.raises(UserError, match=r"\[4.0, 4.0, 4.0\] is not below \[4.0, 4.0, 4.0\]"):
        bring_in(tmp_path / "s", tmp_path / "c", action_range=(4, 4))


def test_frames_are_resized_and_cropped(tmp_path):
    image = np.zeros((6, 128, 256, 3), np.uint8)
    image[:, :, 64:192] = 200  # the middle square
    write_npz(tmp_path / "s/a.npz", **episode(0) | {"image": image})
    stretched = bring_in(tmp_path / "s", tmp_path / "a")
    assert stretched.read(0, 0, 1)[0, 0, ::16, 0].tolist() == [0, 200, 200, 0]
    cropped = bring_in(tmp_path / "s", tmp_path / "b", geometry={"aspect": "center-crop"})
    assert (cropped.read(0, 0, 6) == 200).all()
    assert cropped.info["sizes"] == {"256 x 128": 1}


def content(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("codec", ["raw", "h264"])
def test_killed_import_resumes_to_the_same_bytes_and_a_second_one_decodes_nothing(
    source, tmp_path, monkeypatch, codec
):
    bring_in(source, tmp_path / "straight", codec=codec)
    read, done = build.align, []

    def killed(steps, frames):
        done.append(frames)
        if len(done) == 4:
            raise KeyboardInterrupt
        return read(steps, frames)

    monkeypatch.setattr(build, "align", killed)
    with pytest.raises(KeyboardInterrupt):
        bring_in(source, tmp_path / "killed", codec=codec)
    assert not (tmp_path / "killed/store.json").exists()
    monkeypatch.undo()
    shrunk = []
    monkeypatch.setattr("cwm.recorded.files.shrink", lambda *x: shrunk.append(x) or shrink(*x))
    bring_in(source, tmp_path / "killed", codec=codec)
    assert len(shrunk) == 2  # four of six were kept
    assert content(tmp_path / "killed") == content(tmp_path / "straight")
    bring_in(source, tmp_path / "killed", codec=codec)
    assert len(shrunk) == 2
    assert content(tmp_path / "killed") == content(tmp_path / "straight")


def test_changed_actions_change_the_checksum_of_the_content(tmp_path):
    write_npz(tmp_path / "s/a.npz", **episode(0))
    first = bring_in(tmp_path / "s", tmp_path / "out").info["sha256"]["content"]
    write_npz(tmp_path / "s/a.npz", **episode(0) | {"reward": np.ones(5)})
    assert bring_in(tmp_path / "s", tmp_path / "out").info["sha256"]["content"] != first


def test_damaged_steps_are_an_error(source, tmp_path):
    bring_in(source, tmp_path / "out")
    path = tmp_path / "out/rewards.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    store = ClipStore.open(tmp_path / "out/store.json")
    with pytest.raises(UserError, match=r"rewards.npy does not match the sha256 in .*store.json"):
        store.steps  # noqa: B018

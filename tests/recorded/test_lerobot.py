"""LeRobot v3.0: two video files of two and one episodes, written by our encoder and by pyarrow."""

import json
import subprocess

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from recordings import bring_in

from cwm.infra.errors import UserError
from cwm.recorded import lerobot
from cwm.videos.encode import H264, encode
from cwm.videos.ffmpeg import ffmpeg_exe

CAMERA = "observation.images.front"
LENGTHS = {0: 6, 1: 9, 2: 7}  # frames of each episode
FPS = 10
HEIGHT, WIDTH = 48, 64


def grey(episode):
    """Grey values of the frames of an episode."""
    return 40 + 60 * episode + 5 * np.arange(LENGTHS[episode])


def movie(path, episodes):
    values = np.concatenate([grey(episode) for episode in episodes])
    frames = np.broadcast_to(values[:, None, None, None], (len(values), HEIGHT, WIDTH, 3))
    encode(path, frames.astype(np.uint8), FPS, H264)


def write_table(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)


def data(episode, rewards=True):
    """Rows of an episode: actions are its number and 0.1 * t, the reward after frame t is t."""
    n = LENGTHS[episode]
    t = np.arange(n)
    columns = {"action": [[episode / 10, x / 10] for x in range(n)]}
    columns |= {"timestamp": t / FPS, "frame_index": t, "episode_index": np.full(n, episode)}
    return columns | ({"next.reward": t.astype(np.float32)} if rewards else {})


def join(parts):
    return {
        name: np.concatenate([list(part[name]) for part in parts]).tolist() for name in parts[0]
    }


def episodes(cameras=(CAMERA,)):
    """The columns of meta/episodes."""
    columns = {"episode_index": [0, 1, 2], "length": list(LENGTHS.values())}
    columns |= {"tasks": [["push"], ["push"], ["lift", "drop"]]}
    columns |= {"data/chunk_index": [0] * 3, "data/file_index": [0, 0, 1]}
    for camera in cameras:
        columns |= {f"videos/{camera}/chunk_index": [0, 0, 0]}
        columns |= {f"videos/{camera}/file_index": [0, 0, 1]}
        columns |= {f"videos/{camera}/from_timestamp": [0.0, 0.6, 0.0]}
        columns |= {f"videos/{camera}/to_timestamp": [0.6, 1.5, 0.7]}
    return columns


def info(cameras=(CAMERA,), **changes):
    shape = [HEIGHT, WIDTH, 3]
    features = {camera: {"dtype": "video", "shape": shape} for camera in cameras}
    features |= {"action": {"dtype": "float32", "shape": [2]}}
    return {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": 3,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    } | changes


def write_info(root, **changes):
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps(info(**changes)))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "robot"
    write_info(root)
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", episodes())
    write_table(root / "data/chunk-000/file-000.parquet", join([data(0), data(1)]))
    write_table(root / "data/chunk-000/file-001.parquet", data(2))
    movie(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", [0, 1])
    movie(root / f"videos/{CAMERA}/chunk-000/file-001.mp4", [2])
    return root


def reasons(out):
    rows = parquet.read_table(out / "manifest.parquet").to_pylist()
    return {row["file"]: row["reason"] for row in rows}


def test_episodes_are_the_segments_of_the_videos_with_their_rows(root, tmp_path):
    store = bring_in(root, tmp_path / "out")
    assert list(reasons(tmp_path / "out")) == ["episode_000000", "episode_000001", "episode_000002"]
    for episode, length in LENGTHS.items():
        assert store.index["length"][episode] == length
        seen = store.read(episode, 0, length).mean((1, 2, 3))
        assert np.abs(seen - grey(episode)).max() < 3
        steps = store.steps_of(np.array([episode]), np.array([0]), length)
        # The action of row t leads to frame t + 1, and the last row leads nowhere.
        np.testing.assert_allclose(steps.action[0, 1:, 0], episode / 10)
        np.testing.assert_allclose(steps.action[0, 1:, 1], np.arange(length - 1) / 10, rtol=1e-6)
        assert steps.reward[0].tolist() == [0, *range(length - 1)]
    labels = [store.labels[i] if i >= 0 else None for i in store.index["label"]]
    assert labels == ["push", "push", None]  # an episode of two tasks has no label
    assert store.info["sizes"] == {"64 x 48": 3}
    assert store.info["seconds"] == pytest.approx(2.2)


def test_concatenated_av1_videos_are_cut_at_the_episodes(root, tmp_path):
    """As LeRobot writes them: AV1, each episode encoded by itself, then joined without decoding."""
    codec = {"vcodec": "libsvtav1", "g": 2, "crf": 30, "preset": 10, "loglevel": "error"}
    for episode in (0, 1):
        frames = np.broadcast_to(grey(episode)[:, None, None, None], (LENGTHS[episode], 64, 64, 3))
        encode(tmp_path / f"{episode}.mp4", frames.astype(np.uint8), FPS, codec)
    (tmp_path / "list").write_text("file 0.mp4\nfile 1.mp4\n")
    joined = root / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    words = ["-v", "error", "-y", "-f", "concat", "-i", tmp_path / "list", "-c", "copy", joined]
    subprocess.run([ffmpeg_exe(), *words], check=True)
    store = bring_in(root, tmp_path / "out")
    for episode in (0, 1):
        seen = store.read(episode, 0, LENGTHS[episode]).mean((1, 2, 3))
        assert np.abs(seen - grey(episode)).max() < 3


def test_each_video_is_decoded_once_and_never_again(root, tmp_path, monkeypatch):
    decoded, decode = [], lerobot.decode
    monkeypatch.setattr(lerobot, "decode", lambda *x, **y: decoded.append(x[0]) or decode(*x, **y))
    bring_in(root, tmp_path / "out")
    assert [path.name for path in decoded] == ["file-000.mp4", "file-001.mp4"]
    bring_in(root, tmp_path / "out")
    assert len(decoded) == 2


def test_one_of_several_cameras_is_chosen_by_name(root, tmp_path):
    names = (CAMERA, "top")
    write_info(root, cameras=names)
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", episodes(names))
    with pytest.raises(UserError, match=r"has the cameras observation.images.front, top; choose"):
        bring_in(root, tmp_path / "out")
    with pytest.raises(UserError, match=r"has no camera 'side', only observation.images.front, t"):
        bring_in(root, tmp_path / "out", camera="side")
    assert len(bring_in(root, tmp_path / "out", camera=CAMERA)) == 3
    with pytest.raises(UserError, match=r"rejected: episode_000000: videos/top/.*: no such file"):
        bring_in(root, tmp_path / "top", camera="top")


UNUSABLE = {
    "version": ({"codebase_version": "v2.1"}, "version v2.1 cannot be read; v3.0 works"),
    "no camera": ({"cameras": ()}, "has no camera"),
    "images": (
        {"features": {"action": {"dtype": "float32"}, "top": {"dtype": "image"}}},
        "camera top is stored as images; only videos can be read",
    ),
    "no action": ({"features": {CAMERA: {"dtype": "video"}}}, "lists no feature `action`"),
    "count": ({"total_episodes": 4}, "says 4 episodes, and meta/episodes lists 3"),
    "path": ({"video_path": "../{video_key}.mp4"}, "leads out of the dataset"),
    "template": ({"data_path": "{episode}.parquet"}, "is not a template of chunk_index and file"),
    "rate": ({"fps": 0}, "fps is 0: Input should be greater than 0"),
}


@pytest.mark.parametrize(("changes", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_info_is_an_error(root, tmp_path, changes, message):
    options = {"camera": "top"} if "stored as images" in message else {}
    write_info(root, **changes)
    with pytest.raises(UserError, match=message):
        bring_in(root, tmp_path / "out", **options)


def test_damaged_metadata_is_an_error(root, tmp_path):
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    write_table(path, episodes() | {"episode_index": [0, 1, 1]})
    with pytest.raises(UserError, match=r"meta/episodes lists episode 1 twice"):
        bring_in(root, tmp_path / "out")
    write_table(path, episodes(cameras=()))
    with pytest.raises(UserError, match=r"000.parquet: .* no column videos/observation.images.fr"):
        bring_in(root, tmp_path / "out")
    write_table(path, episodes() | {"length": [6, None, 7]})
    with pytest.raises(UserError, match=r"000.parquet: 1.1 is None: Input should be a valid int"):
        bring_in(root, tmp_path / "out")
    path.write_bytes(b"no table")
    with pytest.raises(UserError, match=r"file-000.parquet: cannot be read: "):
        bring_in(root, tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match=r"no meta/episodes/\*/\*.parquet in .*robot"):
        bring_in(root, tmp_path / "out")
    (root / "meta/info.json").write_text("{")
    with pytest.raises(UserError, match=r"info.json is not JSON"):
        bring_in(root, tmp_path / "out")


def damage_video(root):
    path = root / f"videos/{CAMERA}/chunk-000/file-001.mp4"
    path.write_bytes(path.read_bytes()[:-400])


def damage_data(root):
    (root / "data/chunk-000/file-001.parquet").write_bytes(b"PAR1")


def change(**columns):
    return lambda root: write_table(root / "data/chunk-000/file-001.parquet", data(2) | columns)


def meta(**columns):
    return lambda root: write_table(
        root / "meta/episodes/chunk-000/file-000.parquet",
        episodes() | {f"videos/{CAMERA}/{name}": x for name, x in columns.items()},
    )


BAD = {
    "video": (damage_video, "file-001.mp4: ffmpeg: "),
    "missing video": (
        lambda root: (root / f"videos/{CAMERA}/chunk-000/file-001.mp4").unlink(),
        "file-001.mp4: no such file",
    ),
    "data": (damage_data, "data/chunk-000/file-001.parquet: cannot be read: "),
    "missing data": (
        lambda root: (root / "data/chunk-000/file-001.parquet").unlink(),
        "data/chunk-000/file-001.parquet: cannot be read: ",
    ),
    "fewer rows": (
        lambda root: write_table(
            root / "data/chunk-000/file-001.parquet", {k: x[:5] for k, x in data(2).items()}
        ),
        "its 5 rows do not have frame_index 0 to 6 in order",
    ),
    "order": (change(frame_index=[0, 2, 1, 3, 4, 5, 6]), "do not have frame_index 0 to 6 in order"),
    "NaN": (change(action=[[0, np.nan]] * 7), "action is NaN or infinite in row 0"),
    "null": (change(action=[[0, None]] * 7), "action is NaN or infinite in row 0"),
    "ragged": (change(action=[[0, 0]] * 6 + [[0]]), "a column has lists of [2, 1] values"),
    "action size": (change(action=[[0.0]] * 7), "it has actions of 1 values, and episode_000000"),
    "text": (change(action=["go"] * 7), "action is object (7, 1), not a list of numbers"),
    "longer": (meta(to_timestamp=[0.6, 1.5, 0.8]), "has 8 frames, and the episode 7"),
    "beyond": (
        meta(from_timestamp=[0, 0.6, 5.0], to_timestamp=[0.6, 1.5, 5.7]),
        "ends after the video, which has 7 frames",
    ),
    "between": (
        meta(from_timestamp=[0, 0.6, 0.04], to_timestamp=[0.6, 1.5, 0.74]),
        "does not begin and end at frames of 10 per second",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), BAD.values(), ids=BAD)
def test_a_bad_episode_is_rejected_with_its_reason(root, tmp_path, damage, reason):
    damage(root)
    store = bring_in(root, tmp_path / "out")
    assert store.info["videos"] == {"ok": 2, "failed": 1}
    assert reason in reasons(tmp_path / "out")["episode_000002"]


def test_a_video_of_another_rate_is_rejected(root, tmp_path):
    write_info(root, fps=5)
    message = r"3 of 3 episodes .* 15 frames in 1.5 s, and meta/info.json says 5 frames per second"
    with pytest.raises(UserError, match=message):
        bring_in(root, tmp_path / "out")

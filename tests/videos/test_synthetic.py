from collections import Counter
from functools import cache
from itertools import combinations, islice

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cwm.videos import synthetic
from cwm.videos.encode import VP9, encode
from cwm.videos.synthetic import driving, human36m, robot, something
from envs.textures import tile

RIGHT, LEFT = "pushing-left-to-right", "pushing-right-to-left"


@pytest.fixture(scope="module")
def clips():
    """Frames of a clip, rendered once for all tests.

    Of driving, the first 12 frames; of human36m, frames and joints.
    """

    @cache
    def render(module, clip, seed=0):
        frames = list(islice(module.render(seed, clip), 12 if module is driving else None))
        if module is human36m:
            return tuple(map(np.stack, zip(*frames, strict=True)))
        return np.stack(frames)

    return render


SCENES = {
    driving: driving._environment,
    human36m: human36m._laboratory,
    robot: robot._environment,
    something: something._tabletop,
}


@pytest.mark.parametrize("module", SCENES, ids=lambda module: module.__name__.split(".")[-1])
def test_a_clip_depends_on_seed_and_number_only(module):
    def start(seed, clip):
        frames = list(islice(module.render(seed, clip), 6))
        return [frame if isinstance(frame, tuple) else (frame,) for frame in frames]

    first, other = start(0, 3), start(1, 3)
    start(0, 3 + 15 * 4)  # of the same label everywhere, in the same scene
    again = start(0, 3)
    SCENES[module].cache_clear()
    for frames in (again, start(0, 3)):
        for one, same in zip(first, frames, strict=True):
            for ours, theirs in zip(one, same, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    assert any((one[0] != another[0]).any() for one, another in zip(first, other, strict=True))


def test_clips_are_lit_varied_and_moving(clips):
    backgrounds = []
    for clip in range(8):
        frames = clips(something, clip)
        assert frames.shape[1:] == (96, 128, 3)
        assert len(frames) >= 25
        assert 40 < frames.mean() < 215
        changed = (np.abs(np.diff(frames.astype(int), axis=0)) > 20).any(-1)
        assert changed.mean() > 0.002
        backgrounds.append(np.median(frames, axis=0).mean((0, 1)))
    assert np.std(backgrounds, axis=0).min() > 10


@pytest.mark.parametrize("clip", [0, 1, 4, 5, 8, 9])
def test_pushed_objects_move_as_their_label_says(clips, clip):
    frames = clips(something, clip).astype(int)
    held = frames[len(frames) // 4 : -len(frames) // 4]
    differs = np.abs(held - np.median(frames, axis=0)).sum(-1)
    differs = np.where(differs > 60, differs, 0)[
        :, 40:
    ]  # the lower part shows objects and little of the arm
    centre = (differs * np.arange(128)).sum((1, 2)) / differs.sum((1, 2))
    moved = centre[-3:].mean() - centre[:3].mean()
    assert moved > 4 if something.label(clip) == RIGHT else moved < -4


def test_a_push_to_the_left_is_a_push_to_the_right_backwards():
    """This makes one frame at a random time say nothing about the direction."""
    away = np.array([0.2, -0.3, 0.5])
    motion = something.Motion.draw(np.random.default_rng(0), RIGHT, away)
    same_draws = something.Motion.draw(np.random.default_rng(0), LEFT, away)
    backwards = motion._replace(
        start=motion.start + motion.shift,
        shift=-motion.shift,
        grasp=1 - motion.release,
        release=1 - motion.grasp,
    )
    np.testing.assert_allclose(same_draws.start, backwards.start)
    np.testing.assert_allclose(same_draws.shift, backwards.shift)
    for time in np.linspace(0, 1, 21):
        for ours, theirs in zip(motion.at(time), backwards.at(1 - time), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_waiting_times_at_both_ends_have_the_same_distribution():
    rng = np.random.default_rng(0)
    drawn = [something.Motion.draw(rng, RIGHT, np.zeros(3)) for _ in range(10_000)]
    grasp, release = np.array([(motion.grasp, 1 - motion.release) for motion in drawn]).T
    assert abs(grasp.mean() - release.mean()) < 0.01
    assert abs(grasp.std() - release.std()) < 0.01


def accuracy(features, labels):
    """Accuracy of a linear probe on clips (N, ...), by two-fold cross-validation."""
    features, half = features.reshape(len(labels), -1), len(labels) // 2
    first, second = np.arange(half), np.arange(half, len(labels))
    hits = []
    for train, test in ((first, second), (second, first)):
        probe = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-1, 5, 13)))
        hits.append(probe.fit(features[train], labels[train]).score(features[test], labels[test]))
    return np.mean(hits)


def shrink(frames, factor):
    """Means over squares of pixels."""
    *batch, height, width, colours = frames.shape
    cells = (*batch, height // factor, factor, width // factor, factor, colours)
    return frames.reshape(cells).mean((-4, -2), dtype=np.float32)


def flow(pairs):
    """Motion of blocks to the right up to a factor: -(change in time)(slope across)."""
    smooth = gaussian_filter(pairs, (0, 0, 0.8, 0.8, 0))
    slope = np.gradient(smooth.mean(1), axis=2)
    product = -((smooth[:, 1] - smooth[:, 0]) * slope).sum(-1)
    product /= (slope**2).sum((1, 2, 3))[:, None, None]
    return shrink(product[..., None], 8)


def test_two_frames_tell_the_direction_of_a_push_and_one_does_not():
    """Both frames of a pair are at random times, so that neither end of a clip is favoured."""
    scene = something._tabletop()
    rng, gap, pairs, labels = np.random.default_rng(0), 6, [], []
    for clip in range(1200):
        if something.label(clip) in (RIGHT, LEFT):
            count, frame = scene.prepare(7, clip)
            time = int(rng.integers(count - gap))
            pairs.append(shrink(np.stack([frame(time), frame(time + gap)]), 2))
            labels.append(something.label(clip) == RIGHT)
    pairs, labels = np.array(pairs), np.array(labels)
    assert labels.mean() == 0.5
    one = pairs[np.arange(len(pairs)), rng.integers(2, size=len(pairs))]
    chance = 3 * np.sqrt(0.25 / len(labels))
    assert abs(accuracy(shrink(one, 4), labels) - 0.5) < chance
    assert accuracy(flow(pairs), labels) > 0.85


def test_textures_are_plain_or_patterned_and_never_equal():
    tiles = [tile(np.random.default_rng(i), 32) for i in range(60)]
    assert len({t.tobytes() for t in tiles}) == 60
    contrast = np.array([t.astype(float).std((0, 1)).max() for t in tiles])
    assert contrast.min() < 6 < 25 < contrast.max()  # plain and patterned


def test_equal_frames_give_equal_bytes(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    for name in ("a.webm", "b.webm"):
        encode(tmp_path / name, frames, 12, VP9)
    assert (tmp_path / "a.webm").read_bytes() == (tmp_path / "b.webm").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.webm", "b.webm"]


def test_failed_encoding_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError, match="cannot write"):
        encode(tmp_path / "a.webm", np.zeros((2, 32, 32, 3), np.uint8), 12, {"vcodec": "nothing"})
    assert not list(tmp_path.glob("a*"))


def test_human_clips_combine_few_people_actions_and_cameras_equally():
    traits = [human36m.traits(0, clip) for clip in range(420)]
    assert len({human36m.file_name(clip) for clip in range(1000)}) == 1000
    assert {key: len(Counter(t[key] for t in traits)) for key in traits[0]} == {
        "subject": 7,
        "action": 15,
        "camera": 4,
        "room": 1,
    }
    for key in traits[0]:
        for part in (traits[:33], traits):  # shares are equal for any number of clips
            shares = Counter(t[key] for t in part).values()
            assert max(shares) - min(shares) <= 1


def test_all_cameras_show_the_same_performance(clips, monkeypatch):
    views = (5, 110, 215, 320)
    assert {human36m.traits(0, clip)["camera"] for clip in views} == set(human36m.CAMERAS)
    seen = [clips(human36m, clip)[1] for clip in views]
    room = human36m._laboratory()
    monkeypatch.setattr(room, "frame", lambda height, width: None)
    monkeypatch.setattr(room, "project", lambda joints, side: joints)

    def performance(clip):
        return np.stack([joints for _, joints in human36m.render(0, clip)])

    done = [performance(clip) for clip in views]
    for i in range(1, 4):
        np.testing.assert_array_equal(done[i], done[0])
        assert np.abs(seen[i] - seen[0]).max() > 50
    again = performance(425)  # the same person does the same once more
    assert len(again) != len(done[0]) or (again != done[0]).any()


def test_each_human_camera_has_one_background(clips):
    walks = [clip for clip in range(60) if human36m.ACTIONS[human36m.label(clip)].walks][:10]
    medians = [(clip % 4, np.median(clips(human36m, clip)[0], axis=0)) for clip in walks]
    for (camera, one), (other_camera, other) in combinations(medians, 2):
        differs = (np.abs(one - other).max(-1) > 12).mean()
        assert differs < 0.05 if camera == other_camera else differs > 0.3


def test_joints_lie_on_the_person(clips):
    """Four people before one camera: the median of all frames is the empty room."""
    people = [clips(human36m, clip) for clip in (12, 4, 28, 0)]
    empty = np.median(np.concatenate([frames for frames, _ in people]), axis=0)
    for frames, joints in people:
        person = np.abs(frames - empty).max(-1) > 12
        assert frames.shape[1:] == (160, 160, 3) and joints.shape == (len(frames), 32, 2)
        assert joints.min() > 0 and joints.max() < human36m.UNITS
        x, y = (joints * human36m.SIDE / human36m.UNITS).astype(int).transpose(2, 0, 1)
        assert person[np.arange(len(frames))[:, None], y, x].mean() > 0.9
        assert person.mean() < 0.1  # so the crop around the joints matters
        assert np.ptp(joints, axis=0).max() > 20


def test_people_walk_forwards():
    rng = np.random.default_rng
    for seed in range(6):
        joints = human36m.perform(rng(seed), human36m.ACTIONS["Walking"], 1.7, 30)
        way = np.diff(joints[:, 0, :2], axis=0)
        toes = (joints[:, [4, 9]] - joints[:, [2, 7]]).mean(1)[1:, :2]
        assert (way * toes).sum() > 0.8 * np.linalg.norm(way, axis=1) @ np.linalg.norm(toes, axis=1)
        assert joints[..., 2].min() > 0  # above the floor


def test_human_clips_are_written_atomically(tmp_path):
    """A killed job leaves no folder of the final name, and the next run makes the clip again."""
    path = tmp_path / human36m.file_name(0)
    frames = [(np.full((16, 16, 3), i, np.uint8), np.full((32, 2), i)) for i in range(3)]

    def killed():
        yield from frames[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        human36m.write(path, killed())
    assert not path.exists() and not list(tmp_path.glob("annot/*"))
    human36m.write(path, iter(frames[1:]))
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    names = (tmp_path / f"annot/{path.name}_images.txt").read_text().split()
    assert names == [f"S1_Directions.54138969_{number}.jpg" for number in ("000001", "000006")]
    assert sorted(each.name for each in path.iterdir()) == names
    assert Image.open(path / names[1]).getpixel((3, 3)) == (2, 2, 2)
    with h5py.File(tmp_path / f"annot/{path.name}.h5") as file:
        np.testing.assert_array_equal(file["part"][:, 7, 1], [1, 2])
    assert len(list(tmp_path.glob("annot/*"))) == 2


def test_generate_keeps_existing_clips(tmp_path):
    cfg = synthetic.SyntheticConfig("human36m", clips=2)
    made = synthetic.generate(cfg, tmp_path, workers=1)
    assert list(made) == sorted(made)
    folder = "human36m-v1-seed0"
    for clip in range(2):
        name = f"{folder}/{human36m.file_name(clip)}"
        assert made[name] == human36m.traits(0, clip)
        assert (tmp_path / name).is_dir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert synthetic.generate(cfg, tmp_path, workers=1) == made
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_drives_have_their_own_road_in_recurring_weathers(clips):
    traits = [driving.traits(0, clip) for clip in range(45)]
    assert len({driving.file_name(clip) for clip in range(100)}) == 100
    assert len({t["road"] for t in traits}) == 45
    assert set(Counter(t["weather"] for t in traits).values()) == {3}
    for one, other in combinations([clips(driving, clip)[0] for clip in (0, 15, 30)], 2):
        assert np.abs(one.astype(float) - other).mean() > 5  # though the weather is the same


def test_weathers_differ_as_their_names_say(clips):
    weathers = {driving.label(clip): clips(driving, clip).astype(float) for clip in range(15)}
    for name, frames in weathers.items():
        assert frames.shape == (12, 72, 128, 3)
        sky = frames[:, :6].mean((0, 1, 2))
        if name == "clear-noon":
            assert sky[2] - sky[0] > 60
        if name.endswith("-sunset"):
            assert frames.mean() < 100
        if name == "cloudy-noon":
            assert np.ptp(sky) < 60


def expansion(frames):
    """Relative growth per frame and the point (x, y) it grows from, fitted to the optical flow."""
    video = gaussian_filter(frames.mean(-1), (0, 1.5, 1.5))
    dy, dx = np.gradient((video[1:] + video[:-1]) / 2, axis=(1, 2))
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    design = np.stack([dx * x + dy * y, dx, dy], axis=-1).reshape(-1, 3)
    growth, *shift = np.linalg.lstsq(design, -np.diff(video, axis=0).ravel())[0]
    return growth, *(-np.array(shift) / growth)


def test_the_camera_drives_forward(clips):
    """The picture grows from the middle of the horizon; bends move that point to either side."""
    drives = [clips(driving, clip) for clip in range(15)]
    growth, x, y = np.array([expansion(frames) for frames in drives]).T
    assert growth.min() > 0.004
    assert abs(x.mean() - 64) < 8
    assert abs(y.mean() - 36) < 4
    assert expansion(drives[0][::-1])[0] < 0

import itertools
from collections import Counter

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
from cwm.videos.synthetic import driving, human36m, something
from envs.textures import tile

RIGHT, LEFT = "pushing-left-to-right", "pushing-right-to-left"


@pytest.fixture(scope="module")
def studio():
    return something.Studio()


def film(studio, clip, seed=0):
    return np.stack(list(studio.film(seed, clip)))


def test_a_clip_does_not_depend_on_what_was_filmed_before(studio):
    first = film(studio, 3)
    film(studio, 0)
    film(studio, 6, seed=1)
    np.testing.assert_array_equal(film(studio, 3), first)
    np.testing.assert_array_equal(film(something.Studio(), 3), first)
    assert film(studio, 3, seed=1).shape != first.shape or (film(studio, 3, seed=1) != first).any()


def test_clips_are_lit_varied_and_moving(studio):
    clips = [film(studio, clip) for clip in range(8)]
    for frames in clips:
        assert frames.shape[1:] == (96, 128, 3)
        assert len(frames) >= 25
        assert 40 < frames.mean() < 215
        changed = (np.abs(np.diff(frames.astype(int), axis=0)) > 20).any(-1)
        assert changed.mean() > 0.002
    backgrounds = np.stack([np.median(frames, axis=0).mean((0, 1)) for frames in clips])
    assert backgrounds.std(0).min() > 10


@pytest.mark.parametrize("clip", [0, 1, 4, 5, 8, 9])
def test_pushed_things_move_the_way_their_label_says(studio, clip):
    frames = film(studio, clip).astype(int)
    held = frames[len(frames) // 4 : -len(frames) // 4]
    differs = np.abs(held - np.median(frames, axis=0)).sum(-1)
    differs = np.where(differs > 60, differs, 0)[:, 40:]  # the lower part: things, few arms
    centre = (differs * np.arange(128)).sum((1, 2)) / differs.sum((1, 2))
    moved = centre[-3:].mean() - centre[:3].mean()
    assert moved > 4 if something.label(clip) == RIGHT else moved < -4


def test_a_push_to_the_left_is_a_push_to_the_right_backwards():
    """So one frame at a random time says nothing about the direction."""
    rng, away = np.random.default_rng(0), np.array([0.2, -0.3, 0.5])
    plan = something.motion(rng, RIGHT, away)
    same_draws = something.motion(np.random.default_rng(0), LEFT, away)
    backwards = plan._replace(
        start=plan.start + plan.shift,
        shift=-plan.shift,
        grasp=1 - plan.release,
        release=1 - plan.grasp,
    )
    np.testing.assert_allclose(same_draws.start, backwards.start)
    np.testing.assert_allclose(same_draws.shift, backwards.shift)
    for time in np.linspace(0, 1, 21):
        for ours, theirs in zip(
            something.pose(plan, time), something.pose(backwards, 1 - time), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_waiting_times_at_both_ends_are_alike():
    plans = [something.motion(np.random.default_rng(i), RIGHT, np.zeros(3)) for i in range(2000)]
    grasp, release = np.array([(plan.grasp, 1 - plan.release) for plan in plans]).T
    assert abs(grasp.mean() - release.mean()) < 0.01
    assert abs(grasp.std() - release.std()) < 0.01


def accuracy(features, labels):
    """Of a linear probe: of clips (N, ...) either half is told by one that learnt the other."""
    features, half = features.reshape(len(labels), -1), len(labels) // 2
    first, second = np.arange(half), np.arange(half, len(labels))
    hits = []
    for train, test in ((first, second), (second, first)):
        probe = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-1, 5, 13)))
        hits.append(probe.fit(features[train], labels[train]).score(features[test], labels[test]))
    return np.mean(hits)


def shrink(pictures, factor):
    """Means of squares of pixels."""
    *batch, height, width, colours = pictures.shape
    cells = (*batch, height // factor, factor, width // factor, factor, colours)
    return pictures.reshape(cells).mean((-4, -2), dtype=np.float32)


def motion(pairs):
    """What is linear in how far blocks moved to the right: -(change in time)(slope across)."""
    smooth = gaussian_filter(pairs, (0, 0, 0.8, 0.8, 0))
    slope = np.gradient(smooth.mean(1), axis=2)
    product = -((smooth[:, 1] - smooth[:, 0]) * slope).sum(-1)
    product /= (slope**2).sum((1, 2, 3))[:, None, None]
    return shrink(product[..., None], 8)


def test_the_direction_of_a_push_is_in_two_frames_and_not_in_one(studio):
    """Both frames of a pair are at random times, so that neither end of a clip is favoured."""
    rng, gap, pairs, labels = np.random.default_rng(0), 6, [], []
    for clip in range(1200):
        if something.label(clip) in (RIGHT, LEFT):
            count, shoot = studio.prepare(7, clip)
            time = int(rng.integers(count - gap))
            pairs.append(shrink(np.stack([shoot(time), shoot(time + gap)]), 2))
            labels.append(something.label(clip) == RIGHT)
    pairs, labels = np.array(pairs), np.array(labels)
    assert labels.mean() == 0.5
    one = pairs[np.arange(len(pairs)), rng.integers(2, size=len(pairs))]
    chance = 3 * np.sqrt(0.25 / len(labels))
    assert abs(accuracy(shrink(one, 4), labels) - 0.5) < chance
    assert accuracy(motion(pairs), labels) > 0.85


def test_textures_have_all_kinds_and_no_seam():
    tiles = [tile(np.random.default_rng(i), 32) for i in range(60)]
    assert len({t.tobytes() for t in tiles}) == 60
    contrast = np.array([t.astype(float).std((0, 1)).max() for t in tiles])
    assert contrast.min() < 6 < 25 < contrast.max()  # plain ones and patterned ones


def test_equal_frames_give_equal_bytes(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    for name in ("a.webm", "b.webm"):
        encode(tmp_path / name, frames, 12, VP9)
    assert (tmp_path / "a.webm").read_bytes() == (tmp_path / "b.webm").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.webm", "b.webm"]


def test_a_video_that_cannot_be_encoded_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError, match="could not write"):
        encode(tmp_path / "a.webm", np.zeros((2, 32, 32, 3), np.uint8), 12, {"vcodec": "nothing"})
    assert not list(tmp_path.glob("a*"))


@pytest.fixture(scope="module")
def room():
    return human36m.Studio()


def stills(room, clip):
    pictures, joints = zip(*room.film(0, clip), strict=True)
    return np.stack(pictures), np.stack(joints)


def test_a_human_clip_does_not_depend_on_what_was_filmed_before(room):
    pictures, joints = stills(room, 5)
    stills(room, 9)
    for again in (stills(room, 5), stills(human36m.Studio(), 5)):
        np.testing.assert_array_equal(again[0], pictures)
        np.testing.assert_array_equal(again[1], joints)


def test_human_clips_are_few_people_and_actions_before_four_cameras_in_one_room():
    traits = [human36m.traits(0, clip) for clip in range(420)]
    assert len({human36m.place(clip) for clip in range(1000)}) == 1000
    assert {key: len(Counter(t[key] for t in traits)) for key in traits[0]} == {
        "subject": 7,
        "action": 15,
        "camera": 4,
        "room": 1,
    }
    for key in traits[0]:
        for part in (traits[:33], traits):  # any number of clips has equal shares
            shares = Counter(t[key] for t in part).values()
            assert max(shares) - min(shares) <= 1


def test_all_cameras_film_the_same_performance(room, monkeypatch):
    clips = (5, 110, 215, 320)
    assert {human36m.traits(0, clip)["camera"] for clip in clips} == set(human36m.CAMERAS)
    seen = [stills(room, clip)[1] for clip in clips]
    monkeypatch.setattr(room.camera, "project", lambda joints, side: joints)
    done = [stills(room, clip)[1] for clip in clips]
    for i in range(1, 4):
        np.testing.assert_array_equal(done[i], done[0])
        assert np.abs(seen[i] - seen[0]).max() > 50
    assert len(stills(room, 425)[1]) != len(done[0]) or (stills(room, 425)[1] != done[0]).any()


def test_human_backgrounds_are_as_many_as_cameras(room):
    walks = [clip for clip in range(60) if human36m.ACTIONS[human36m.label(clip)].walks]
    pictures = [(clip % 4, np.median(stills(room, clip)[0], axis=0)) for clip in walks[:10]]
    for camera, one in pictures:
        for other_camera, other in pictures:
            differs = (np.abs(one - other).max(-1) > 12).mean()
            assert differs < 0.05 if camera == other_camera else differs > 0.3


def test_joints_lie_on_the_person(room):
    """Four people before one camera: what most pictures show at a place is the room."""
    clips = [stills(room, clip) for clip in (12, 4, 28, 0)]
    empty = np.median(np.concatenate([pictures for pictures, _ in clips]), axis=0)
    for pictures, joints in clips:
        person = np.abs(pictures - empty).max(-1) > 12
        assert joints.shape == (len(pictures), 32, 2)
        assert joints.min() > 0 and joints.max() < human36m.UNITS
        x, y = (joints * human36m.SIDE / human36m.UNITS).astype(int).transpose(2, 0, 1)
        assert person[np.arange(len(pictures))[:, None], y, x].mean() > 0.9
        assert person.mean() < 0.1  # so the crop around the joints matters
        assert np.ptp(joints, axis=0).max() > 20


def test_a_person_who_walks_goes_where_the_face_looks():
    rng = np.random.default_rng
    for seed in range(6):
        joints = human36m.perform(rng(seed), human36m.ACTIONS["Walking"], 1.7, 30)
        way = np.diff(joints[:, 0, :2], axis=0)
        toes = (joints[:, [4, 9]] - joints[:, [2, 7]]).mean(1)[1:, :2]
        assert (way * toes).sum() > 0.8 * np.linalg.norm(way, axis=1) @ np.linalg.norm(toes, axis=1)
        assert joints[..., 2].min() > 0  # nobody sinks into the floor


def test_human_stills_are_there_when_all_is(tmp_path):
    """What a killed job leaves has another name, and the next run makes the clip anew."""
    place = tmp_path / human36m.place(0)
    frames = [(np.full((16, 16, 3), i, np.uint8), np.full((32, 2), i)) for i in range(3)]

    def killed():
        yield from frames[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        human36m.write(place, killed())
    assert not place.exists() and not list(tmp_path.glob("annot/*"))
    human36m.write(place, iter(frames[1:]))
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    names = (tmp_path / f"annot/{place.name}_images.txt").read_text().split()
    assert names == [f"S1_Directions.54138969_{number}.jpg" for number in ("000001", "000006")]
    assert sorted(path.name for path in place.iterdir()) == names
    assert Image.open(place / names[1]).getpixel((3, 3)) == (2, 2, 2)
    with h5py.File(tmp_path / f"annot/{place.name}.h5") as file:
        np.testing.assert_array_equal(file["part"][:, 7, 1], [1, 2])
    assert len(list(tmp_path.glob("annot/*"))) == 2


def test_generate_names_clips_and_keeps_what_is_there(tmp_path):
    cfg = synthetic.StandinConfig("human36m", clips=2)
    made = synthetic.generate(cfg, tmp_path, workers=1)
    assert list(made) == sorted(made)
    folder = "human36m-v1-seed0"
    for clip in range(2):
        name = f"{folder}/{human36m.place(clip)}"
        assert made[name] == human36m.traits(0, clip)
        assert (tmp_path / name).is_dir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert synthetic.generate(cfg, tmp_path, workers=1) == made
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def drive(clip, seed=0, count=12):
    return np.stack(list(itertools.islice(driving.Studio().film(seed, clip), count)))


def test_a_drive_does_not_depend_on_what_was_filmed_before():
    studio = driving.Studio()
    first = list(studio.film(0, 3))
    list(itertools.islice(studio.film(1, 7), 2))
    np.testing.assert_array_equal(list(studio.film(0, 3)), first)
    assert np.shape(first)[1:] == (72, 128, 3) and 40 <= len(first) <= 60


def test_every_drive_has_a_road_of_its_own_in_few_cities_and_weathers():
    traits = [driving.traits(0, clip) for clip in range(36)]
    assert len({driving.place(clip) for clip in range(100)}) == 100
    assert {key: len(Counter(t[key] for t in traits)) for key in traits[0]} == {
        "road": 36,
        "city": 9,
        "weather": 4,
    }
    assert len({(t["city"], t["weather"]) for t in traits}) == 36
    roads = np.stack([drive(0, seed, count=1)[0] for seed in range(6)]).astype(float)
    for one, other in itertools.combinations(roads, 2):  # though city and weather are the same
        assert np.abs(one - other).mean() > 10


def test_weathers_look_like_themselves():
    sky, contrast, light = {}, {}, {}
    for clip in range(6, 36, 9):  # all in the desert, where little hides the sky
        weather, frames = driving.traits(0, clip)["weather"], drive(clip, count=2).astype(float)
        sky[weather] = frames[:, :6].mean((0, 1, 2))
        contrast[weather] = frames[:, 25:40].std()
        light[weather] = frames[:, 40:].mean()
    assert sky["clear"][2] - sky["clear"][0] > 30 > np.ptp(sky["overcast"])
    assert sky["dusk"][0] > sky["dusk"][2]
    assert min(contrast, key=contrast.get) == "fog"
    assert min(light, key=light.get) == "dusk"


def expansion(frames):
    """Relative growth per frame, and the point (x, y) it grows from: a fit to the optical flow."""
    video = gaussian_filter(frames.mean(-1), (0, 1.5, 1.5))
    dy, dx = np.gradient((video[1:] + video[:-1]) / 2, axis=(1, 2))
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    design = np.stack([dx * x + dy * y, dx, dy], axis=-1).reshape(-1, 3)
    growth, *shift = np.linalg.lstsq(design, -np.diff(video, axis=0).ravel())[0]
    return growth, *(-np.array(shift) / growth)


def test_the_camera_drives_forward():
    """What is seen grows from the middle of the horizon (bends move it, to either side)."""
    growth, x, y = np.array([expansion(drive(clip)) for clip in range(18)]).T
    assert growth.min() > 0.008
    assert abs(x.mean() - 64) < 8
    assert abs(y.mean() - 34) < 4
    assert expansion(drive(0)[::-1])[0] < 0

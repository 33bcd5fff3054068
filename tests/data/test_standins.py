import numpy as np
import pytest

from cwm.data.encode import VP9, encode
from cwm.data.standins import something
from cwm.data.standins.textures import tile

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

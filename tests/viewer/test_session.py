"""What a page of the viewer is answered."""

import base64
import json

import numpy as np
import pytest

from cwm.infra.errors import UserError
from cwm.videos.ffmpeg import Geometry, decode
from cwm.viewer.clips import SyntheticClips
from cwm.viewer.session import LENGTH, Session

FRAME = 64 * 64 * 3
OWN = {"kind": "own"}


class RandomClips:
    names = ("1: one", "2: two")

    def frames(self, number):
        rng = np.random.default_rng(number)
        return rng.integers(256, size=(LENGTH, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def session(models):
    pretrained = {name: models[name] for name in ("contextwm", "plain")}
    agents = {"sphere": (models["agent"], "toy/sphere", models["agent"].settings.env)}
    session = Session(pretrained, agents, RandomClips())
    yield session
    session.close()


def ask(session, **message):
    reply = session.answer(json.dumps(message))
    return reply.facts, np.frombuffer(reply.body, np.uint8)


def show(session, clip=0, observed=5, context=OWN):
    """Truth and predictions (3, LENGTH, 64, 64, 3), and the context frame."""
    _, body = ask(session, do="clip", clip=clip, observed=observed, context=context)
    frames = body.reshape(-1, 64, 64, 3)
    return frames[:-1].reshape(3, LENGTH, 64, 64, 3), frames[-1]


def test_clip_is_shown_with_the_predictions_of_each_model(session, models):
    rows, context = show(session)
    truth = RandomClips().frames(0)
    np.testing.assert_array_equal(rows[0], truth)
    np.testing.assert_array_equal(context, truth[4])
    for row, name in zip(rows[1:], ("contextwm", "plain"), strict=True):
        np.testing.assert_array_equal(row, models[name].predict(truth[None, :5], LENGTH)[0])


def test_context_frame_can_be_swapped(session):
    """The contextual model follows it, the plain one does not."""
    own, _ = show(session)
    colour = np.tile(np.array([200, 30, 90], np.uint8), 64 * 64)
    pixels = {"kind": "pixels", "data": base64.b64encode(colour).decode()}
    for context in (pixels, {"kind": "clip", "clip": 1, "frame": 3}):
        rows, frame = show(session, context=context)
        assert not np.array_equal(rows[1], own[1])
        np.testing.assert_array_equal(rows[2], own[2])
    np.testing.assert_array_equal(frame, RandomClips().frames(1)[3])


def test_attention_belongs_to_the_contextual_model(session):
    with pytest.raises(UserError, match="no clip is shown"):
        ask(session, do="attention", model="contextwm", frame=0, row=0, column=0)
    show(session)
    assert session.facts["models"] == {"contextwm": True, "plain": False}
    with pytest.raises(UserError, match="no cross-attention"):
        ask(session, do="attention", model="plain", frame=7, row=3, column=15)
    facts, _ = ask(session, do="attention", model="contextwm", frame=7, row=3, column=15)
    assert len(facts["weights"]) == 256
    assert sum(facts["weights"]) == pytest.approx(1, abs=1e-4)


def test_dream_and_reality_get_the_same_actions(session):
    facts, first = ask(session, do="reset", agent="sphere", seed=3)
    assert facts["task"] == "toy/sphere" and np.array_equal(first[:FRAME], first[FRAME:])
    for step in range(1, 21):
        action = None if step % 2 else [1.0, -0.5]
        facts, frames = ask(session, do="step", action=action, context=OWN)
        assert facts["steps"] == step and facts["over"] == (step == 20)
        assert len(frames) == 2 * FRAME and len(facts["reward"]) == 2
    with pytest.raises(UserError, match="the episode is over"):
        ask(session, do="step", action=None, context=OWN)
    _, same = ask(session, do="reset", agent="sphere", seed=3)
    np.testing.assert_array_equal(first, same)


def test_what_is_shown_can_be_saved(session, tmp_path):
    for what in ("clip", "episode"):
        with pytest.raises(UserError, match="nothing to save"):
            ask(session, do="save", what=what)
    show(session)
    ask(session, do="reset", agent="sphere", seed=0)
    for _ in range(4):
        ask(session, do="step", action=[0, 0], context=OWN)
    for what, frames, width in (("clip", LENGTH, 3), ("episode", 4, 2)):
        facts, film = ask(session, do="save", what=what)
        (tmp_path / facts["name"]).write_bytes(film.tobytes())
        clip = decode(tmp_path / facts["name"], Geometry())
        assert len(clip.frames) == frames
        assert (clip.width, clip.height) == (256 * width, 256)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("", "message: content"),
        ("{}", "message"),
        ('{"do": "fly"}', "message"),
        ('{"do": "clip", "clip": 9, "observed": 5, "context": {"kind": "own"}}', "no clip 9"),
        ('{"do": "clip", "clip": 0, "observed": 20, "context": {"kind": "own"}}', "observed"),
        ('{"do": "clip", "clip": -1, "observed": 5, "context": {"kind": "own"}}', "clip"),
        ('{"do": "clip", "clip": 0, "observed": 5, "context": {"kind": "file"}}', "context"),
        (
            '{"do": "clip", "clip": 0, "observed": 5, "context": {"kind": "pixels", "data": "AA"}}',
            "not base64",
        ),
        (
            '{"do": "clip", "clip": 0, "observed": 5, "context": {"kind": "pixels", "data": ""}}',
            "has 0 bytes, not 12288",
        ),
        ('{"do": "reset", "agent": "x", "seed": 0}', "no agent 'x'"),
        ('{"do": "step", "action": [0, 0], "context": {"kind": "own"}}', "the episode is over"),
    ],
)
def test_unusable_messages_are_one_line_errors(session, message, error):
    with pytest.raises(UserError, match=error) as raised:
        session.answer(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("action", [[0.0], [0.0, 0.0, 0.0]])
def test_an_action_of_another_size_is_an_error(session, action):
    ask(session, do="reset", agent="sphere", seed=0)
    with pytest.raises(UserError, match=f"{len(action)} numbers for 2 actions"):
        ask(session, do="step", action=action, context=OWN)


def test_synthetic_clips_are_long_enough_and_named():
    clips = SyntheticClips(LENGTH)
    assert clips.names[0] == "1: pushing left to right"
    assert clips.frames(0).shape == (LENGTH, 64, 64, 3) and clips.frames(0).std() > 10

"""`cwm.load`: trained models in Python."""

import contextlib

import numpy as np
import pytest
import torch
import yaml
from squares import ROOT, store, watch

import cwm
from cwm import config
from cwm.agent import Agent
from cwm.infra.checkpoint import save_weights
from cwm.infra.errors import UserError
from cwm.nn.batch import clip_batch
from cwm.videos.store import ClipStore
from cwm.world.openloop import predict


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of a pre-training run, and clips (2, 8, 64, 64, 3)."""
    folder = tmp_path_factory.mktemp("pretrained")
    with contextlib.chdir(folder):
        clips = store(folder)
        watch(clips, folder / "run")
    return folder / "run", ClipStore.open(clips).windows(2, 8)


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """A folder with the weights and settings of an untrained agent with three actions."""
    folder = tmp_path_factory.mktemp("agent")
    names = ("suite/toy", "scale/smoke", "model/contextwm")
    cfg = config.load([ROOT / f"{name}.yaml" for name in names], task="sphere")
    settings = config.resolved(cfg, ("runtime", "model", "env", "finetune"))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    torch.manual_seed(0)
    save_weights(folder, Agent(cfg.model, cfg.finetune.agent, 3).state_dict(), {"kind": "agent"})
    return folder


def random_clips(batch=2, length=4):
    return np.random.default_rng(0).integers(256, size=(batch, length, 64, 64, 3), dtype=np.uint8)


def test_prediction_equals_that_of_cwm_predict(pretrained):
    folder, clips = pretrained
    model = cwm.load(folder)
    found = model.predict(clips[:, :5], length=8)
    expected = predict(model.world, clip_batch(torch.as_tensor(clips)), 5, noise=torch.zeros(()))
    expected = (expected.clamp(0, 1) * 255).round().byte().movedim(2, -1)
    np.testing.assert_array_equal(found, expected.numpy())
    again = cwm.load(folder / "weights.json")
    np.testing.assert_array_equal(found[:, :5], again.reconstruct(clips[:, :5]))


def test_context_frame_changes_the_result_and_defaults_to_the_last_frame(pretrained):
    folder, clips = pretrained
    model = cwm.load(folder)
    other = np.full((2, 64, 64, 3), 200, np.uint8)
    assert not np.array_equal(model.reconstruct(clips), model.reconstruct(clips, context=other))
    last = model.reconstruct(clips, context=clips[:, -1])
    np.testing.assert_array_equal(model.reconstruct(clips), last)
    with pytest.raises(UserError, match="1 context frames for 2 clips"):
        model.reconstruct(clips, context=other[:1])


def test_equal_seeds_give_equal_frames_and_the_generator_is_not_changed(pretrained):
    folder, clips = pretrained
    model = cwm.load(folder)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (model.predict(clips[:, :2], 8, seed=s) for s in (1, 1, 2))
    assert torch.rand(1) == expected
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_attention_sums_to_one(pretrained):
    folder, clips = pretrained
    model = cwm.load(folder)
    weights = model.attention(model.rollout(clips[:, :2], length=3), clips[:, 1])
    assert weights.shape == (2, 3, 256, 256)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


def test_agent_remembers_until_reset(agent):
    model, image = cwm.load(agent), random_clips()[:, 0]
    first, second = model.act(image), model.act(image)
    assert first.shape == (2, 3) and (np.abs(first) <= 1).all()
    assert not np.array_equal(first, second)
    model.reset()
    np.testing.assert_array_equal(model.act(image), first)
    model.reset()
    assert not np.array_equal(model.act(image, seed=1), first)


def test_each_step_of_acting_draws_other_noise(agent, monkeypatch):
    model, image, drawn = cwm.load(agent), random_clips()[:, 0], []
    act = model.agent.act

    def spy(*args, **options):
        drawn.append(torch.get_rng_state())
        return act(*args, **options)

    monkeypatch.setattr(model.agent, "act", spy)
    for _ in range(2):
        model.reset()
        model.act(image)
        model.act(image)
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    with pytest.raises(UserError, match="1 images after 2; call reset"):
        model.act(image[:1])


def test_both_models_and_each_dreamed_step_have_noise_of_their_own(agent, monkeypatch):
    model, clips, drawn = cwm.load(agent), random_clips(), []
    noise = model._noise
    monkeypatch.setattr(model, "_noise", lambda *key: drawn.append(noise(*key)) or drawn[-1])
    dream = model.dream(clips[:, :1], seed=3)
    for _ in range(2):
        dream.advance(np.zeros((2, 3), np.float32))
    assert len({tuple(x.flatten().tolist()) for x in drawn}) == 4


def test_weights_without_an_actor_are_an_error(agent, tmp_path):
    (tmp_path / "config.yaml").write_bytes((agent / "config.yaml").read_bytes())
    save_weights(tmp_path, {"x": torch.zeros(1)}, {"kind": "agent"})
    with pytest.raises(UserError, match="it has no actor"):
        cwm.load(tmp_path)


def test_agent_reconstructs_and_imagines(agent):
    model, clips = cwm.load(agent), random_clips()
    past = np.zeros((2, 3, 3), np.float32)
    assert model.reconstruct(clips, past).shape == clips.shape
    still, moving = (
        model.imagine(clips, past, np.full((2, 5, 3), a, np.float32)) for a in (0.0, 1.0)
    )
    assert still[0].shape == (2, 5, 64, 64, 3) and still[1].shape == (2, 5)
    assert not np.array_equal(still[1], moving[1])


def test_dream_step_by_step_equals_imagine(agent):
    model, clips = cwm.load(agent), random_clips()
    dream, actions = model.dream(clips[:, :1]), []
    features = []
    for _ in range(3):
        actions.append(dream.act())
        features.append(dream.advance(actions[-1]))
    past = np.zeros((2, 0, 3), np.float32)
    frames, rewards = model.imagine(clips[:, :1], past, np.stack(actions, 1))
    np.testing.assert_array_equal(rewards, model.rewards(torch.stack(features, 1)))
    np.testing.assert_array_equal(frames, model.decode(torch.stack(features, 1), clips[:, 0]))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, 2, 64, 64, 3)), r"float64 \(1, 2, 64, 64, 3\); they must be uint8 \(B, T,"),
        (np.zeros((1, 2, 32, 32, 3), np.uint8), r"\(1, 2, 32, 32, 3\)"),
        (np.zeros((1, 0, 64, 64, 3), np.uint8), "empty"),
        (np.zeros((1, 4, 64, 64, 3), np.uint8), "length 3 is less than the 4 frames observed"),
    ],
)
def test_unusable_frames_are_an_error(pretrained, frames, message):
    with pytest.raises(UserError, match=message):
        cwm.load(pretrained[0]).predict(frames, length=3)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((2, 3, 2)), r"actions are \(2, 3, 2\); they must be \(2, steps, 3\)"),
        (np.full((2, 3, 3), np.nan), "finite and within"),
        (np.zeros((2, 4, 3)), "4 frames need 3 actions, not 4"),
    ],
)
def test_unusable_actions_are_an_error(agent, actions, message):
    with pytest.raises(UserError, match=message):
        cwm.load(agent).reconstruct(random_clips(), actions)


def test_one_image_is_not_a_clip(pretrained):
    with pytest.raises(UserError, match=r"frames are \(64, 64, 3\)"):
        cwm.load(pretrained[0]).reconstruct(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_an_error(pretrained):
    with pytest.raises(UserError, match="torch finds no CUDA device"):
        cwm.load(pretrained[0], device="cuda")


def test_a_place_without_a_model_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no model in .*: it has no weights.json"):
        cwm.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("deter: ", "deter: 1", "does not fit the model"), ("model:", "modle:", "config.yaml")],
)
def test_settings_that_do_not_fit_are_an_error(agent, tmp_path, old, new, message):
    for path in agent.iterdir():
        text = path.read_bytes()
        if path.name == "config.yaml":
            text = text.replace(old.encode(), new.encode())
        (tmp_path / path.name).write_bytes(text)
    with pytest.raises(UserError, match=message):
        cwm.load(tmp_path)

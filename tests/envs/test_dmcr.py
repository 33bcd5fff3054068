"""DMC Remastered: looks that seeds decide, in place and yet as if compiled."""

import numpy as np
import pytest
from gymnasium.spaces import Box
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from recompiled import TASKS, files, png, recompiled

import envs
from envs.dmcr import Remastered
from envs.looks import DOMAINS, FACTORS, draw
from envs.pictures import KINDS
from envs.rendering import QUALITIES, Renderer, load

SRGB = PngInfo()
SRGB.add(b"sRGB", b"\0")
SHOWN = set(FACTORS) - {"target", "reflectance"}  # in any frame of walker-run at rest


def remade(env, look):
    """The model compiled in this look, and what it looks like at rest."""
    mujoco = load("mujoco")
    model = recompiled(env, look, files(env, look))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = Renderer(model, 0, env.quality)
    frame = renderer.frame(data, 64, 64)
    renderer.close()
    return model, frame


def at_rest(env, visual_seed):
    """A frame of the model as it was made, in a look."""
    env.wear(env.look(visual_seed))
    load("mujoco").mj_resetData(env.model, env.data)
    load("mujoco").mj_forward(env.model, env.data)
    return env.frame()


def assert_same_model(model, other):
    """But for the room that textures have, and for rounding."""
    for name in dir(model):
        value = getattr(model, name)
        if isinstance(value, np.ndarray) and not name.startswith(("tex_", "_")):
            np.testing.assert_allclose(value, getattr(other, name), 1e-9, 1e-12, err_msg=name)
    for part in (lambda m: m.stat, lambda m: m.vis.headlight, lambda m: m.vis.map):
        for name in (n for n in dir(part(model)) if not n.startswith("_")):
            value = getattr(part(model), name)
            np.testing.assert_allclose(value, getattr(part(other), name), 1e-9, err_msg=name)


@pytest.mark.parametrize("render", QUALITIES)
@pytest.mark.parametrize("domain", DOMAINS)
def test_frames_equal_those_of_a_model_compiled_in_the_look(domain, render):
    env = Remastered(TASKS[domain], render=render)
    frames = []
    for seed in (11, 12):  # the second after the first, which leaves nothing behind
        frames.append(at_rest(env, seed))
        model, frame = remade(env, env.look(seed))
        assert_same_model(env.model, model)
        assert np.array_equal(frames[-1], frame)
    assert not np.array_equal(*frames)
    env.close()


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_alone(factor):
    env = Remastered("walker-run", [factor])
    frame, another = at_rest(env, 11), at_rest(env, 12)
    model, compiled = remade(env, env.look(12))
    assert_same_model(env.model, model)
    assert np.array_equal(another, compiled)
    assert np.array_equal(frame, another) == (factor not in SHOWN)
    env.close()


def test_looks_leave_the_dynamics_alone():
    ours, plain = envs.make("dmc-remastered", "hopper-stand"), envs.make("dmc", "hopper-stand")
    ours.reset(seed=5), plain.reset(seed=5)
    action = np.full(plain.action_space.shape, 0.5)
    for _ in range(10):
        assert ours.step(action)[1] == plain.step(action)[1]
    assert np.array_equal(ours.unwrapped.data.qpos, plain.unwrapped.data.qpos)
    ours.close(), plain.close()


def test_numbers_of_the_official_code():
    """What it draws from visual seed 42, with its 119 skies and 383 floors."""
    look = draw("pendulum", 42, *(kind.count for kind in KINDS.values()))
    assert (look.sky, look.floor, look.shadow_size) == (81, 57, 1642)
    assert look.reflectance == 0.012505377611333468
    assert look.body[2:] == (0.6766994874229113, 0.8187573295922799)
    assert look.effector[2:] == (0.029797219438070344, 0.9730448919262114)
    assert look.target[2:] == (0.1988376506866485, 0.8046594937009008)
    assert look.headlight["ambient"][2] == 0.5638456748332572
    assert look.headlight["diffuse"][2] == 0.8443431073365588
    assert look.headlight["specular"][2] == 0.12852641093400302
    assert look.camera == (0.005002151044533387, -1.0642461886120145, 1.3669632214446468)
    assert look.lamp == {"pos": (0.2364712141640124, 0.07067979496916454, 2.6274873083277526)}
    assert np.tan(np.radians(90 - look.angles[0])) == pytest.approx(0.5278853596915767)


def test_every_task_has_looks():
    for task in envs.tasks("dmc-remastered"):
        env = envs.make("dmc-remastered", task)
        assert env.observation_space.shape == (64, 64, 3)
        assert env.action_space == Box(-1, 1, env.action_space.shape, np.float32)
        frame, _ = env.reset(seed=0)
        assert np.abs(frame.astype(int) - at_rest(env.unwrapped, 1)).mean() > 5
        env.close()


def test_held_out_looks_are_others():
    usual, heldout = Remastered("walker-run"), Remastered("walker-run", heldout=True)
    for seed in range(5):
        usual.reset(seed=seed), heldout.reset(seed=seed)
        assert 1 <= usual.visual_seed <= 1_000_000 < heldout.visual_seed <= 2_000_000
    pictures = (env.pictures["skies"][number]() for env in (usual, heldout) for number in (0, 118))
    assert len({picture.tobytes() for picture in pictures}) == 4
    usual.close(), heldout.close()


@pytest.fixture
def assets(tmp_path):
    """A folder as the original one: PNG with alpha that says sRGB; two skies, three floors."""
    rng = np.random.default_rng(0)
    for kind, size, names in (("skies", 40, "ba"), ("floors", 20, "cab")):
        (tmp_path / kind).mkdir()
        for name in names:
            pixels = rng.integers(256, size=(size, size, 4), dtype=np.uint8)
            (tmp_path / kind / f"{name}.png").write_bytes(png(pixels, SRGB))
    return tmp_path


@pytest.mark.parametrize("render", QUALITIES)
def test_original_assets(assets, render):
    env = Remastered("walker-run", textures=str(assets), render=render)
    for seed in (11, 12, 13):
        frame = at_rest(env, seed)
        look = env.look(seed)
        path = assets / "skies" / f"{'ab'[look.sky]}.png"
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert np.array_equal(env.pictures["skies"][look.sky](), pixels)
        assert np.array_equal(frame, remade(env, look)[1])
    env.close()


def test_mistakes_in_a_folder_are_answered(assets):
    def said(path, content, kind="skies"):
        (assets / kind / path).write_bytes(content)
        with pytest.raises(envs.EnvError) as error:
            env = envs.make("dmc-remastered", "walker-run", textures=str(assets))
            env.unwrapped.pictures["skies"][0]()
        (assets / kind / path).unlink()
        assert "\n" not in str(error.value)
        return str(error.value)

    small, large = (png(np.zeros((size, size, 3), np.uint8)) for size in (20, 320))
    assert "c.png is 20x20; pictures must be square and of one size" in said("c.png", small)
    assert "c.png is no PNG file" in said("c.png", b"GIF89a")
    assert "cannot read" in said("0.png", png(np.zeros((40, 40, 3), np.uint8))[:40])
    for path in (assets / "floors").glob("*"):
        path.unlink()
    assert "floors are 320x320; the model has room for 300x300" in said("0.png", large, "floors")
    with pytest.raises(envs.EnvError, match=r"no \*.png in .*floors; textures is a folder with"):
        envs.make("dmc-remastered", "walker-run", textures=str(assets))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vary": ["lights"]}, "unknown factor 'lights'; did you mean: light"),
        ({"texture": "assets"}, "unknown dmc-remastered option 'texture'; did you mean: textures?"),
    ],
)
def test_mistakes_are_answered(arguments, message):
    with pytest.raises(envs.EnvError) as error:
        envs.make("dmc-remastered", "walker-run", **arguments)
    assert message in str(error.value)

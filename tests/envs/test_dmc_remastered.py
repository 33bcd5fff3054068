"""DMC Remastered: visual factors follow the seed and equal those of a compiled model."""

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from recompiled import TASKS, files, png, recompiled

import envs
from envs.backgrounds import KINDS
from envs.dmc_remastered import Remastered
from envs.rendering import QUALITIES, Renderer, load
from envs.visual_factors import DOMAINS, FACTORS, sample

SRGB = PngInfo()
SRGB.add(b"sRGB", b"\0")
SHOWN = set(FACTORS) - {"target", "reflectance"}  # in any frame of walker-run at rest


def remade(env, factors):
    """The model compiled with these factors, and its frame at rest."""
    mujoco = load("mujoco")
    model = recompiled(env, factors, files(env, factors))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = Renderer(model, 0, env.quality)
    frame = renderer.frame(data, 64, 64)
    renderer.close()
    return model, frame


def at_rest(env, visual_seed):
    """A frame of the initial state with the factors of a visual seed."""
    env.apply(env.visual_factors(visual_seed))
    load("mujoco").mj_resetData(env.model, env.data)
    load("mujoco").mj_forward(env.model, env.data)
    return env.frame()


def assert_same_model(model, other):
    """Equal except for the size of textures and rounding."""
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
def test_frames_equal_those_of_a_model_compiled_with_the_factors(domain, render):
    env = Remastered(TASKS[domain], render=render)
    frames = []
    for seed in (11, 12):  # the first must not affect the second
        frames.append(at_rest(env, seed))
        model, frame = remade(env, env.visual_factors(seed))
        assert_same_model(env.model, model)
        assert np.array_equal(frames[-1], frame)
    assert not np.array_equal(*frames)
    env.close()


@pytest.mark.parametrize("factor", FACTORS)
def test_single_factor_changes_only_itself(factor):
    env = Remastered("walker-run", [factor])
    frame, another = at_rest(env, 11), at_rest(env, 12)
    model, compiled = remade(env, env.visual_factors(12))
    assert_same_model(env.model, model)
    assert np.array_equal(another, compiled)
    assert np.array_equal(frame, another) == (factor not in SHOWN)
    env.close()


def test_visual_factors_leave_dynamics_and_rewards_unchanged():
    ours, plain = envs.make("dmc-remastered", "hopper-stand"), envs.make("dmc", "hopper-stand")
    ours.reset(seed=5), plain.reset(seed=5)
    action = np.full(plain.action_space.shape, 0.5)
    for _ in range(10):
        assert ours.step(action)[1] == plain.step(action)[1]
    assert np.array_equal(ours.unwrapped.data.qpos, plain.unwrapped.data.qpos)
    ours.close(), plain.close()


def test_samples_equal_those_of_the_official_code():
    """Visual seed 42 with 119 skies and 383 floors."""
    factors = sample("pendulum", 42, *(kind.number for kind in KINDS.values()))
    assert (factors.sky, factors.floor, factors.shadow_size) == (81, 57, 1642)
    assert factors.reflectance == 0.012505377611333468
    assert factors.body[2:] == (0.6766994874229113, 0.8187573295922799)
    assert factors.effector[2:] == (0.029797219438070344, 0.9730448919262114)
    assert factors.target[2:] == (0.1988376506866485, 0.8046594937009008)
    assert factors.headlight["ambient"][2] == 0.5638456748332572
    assert factors.headlight["diffuse"][2] == 0.8443431073365588
    assert factors.headlight["specular"][2] == 0.12852641093400302
    assert factors.camera == (0.005002151044533387, -1.0642461886120145, 1.3669632214446468)
    assert factors.lamp == {"pos": (0.2364712141640124, 0.07067979496916454, 2.6274873083277526)}
    assert np.tan(np.radians(90 - factors.angles[0])) == pytest.approx(0.5278853596915767)


def test_visual_factors_change_every_task():
    for task in envs.tasks("dmc-remastered"):
        env = envs.make("dmc-remastered", task)
        frame, _ = env.reset(seed=0)
        assert np.abs(frame.astype(int) - at_rest(env.unwrapped, 1)).mean() > 5
        env.close()


def test_heldout_seeds_and_pictures_are_different():
    usual, heldout = Remastered("walker-run"), Remastered("walker-run", heldout=True)
    for seed in range(5):
        usual.reset(seed=seed), heldout.reset(seed=seed)
        assert 1 <= usual.visual_seed <= 1_000_000 < heldout.visual_seed <= 2_000_000
    pictures = (env.pictures["skies"][number]() for env in (usual, heldout) for number in (0, 118))
    assert len({picture.tobytes() for picture in pictures}) == 4
    usual.close(), heldout.close()


@pytest.fixture
def assets(tmp_path):
    """A folder like the original: two skies and three floors, PNG with alpha and an sRGB mark."""
    rng = np.random.default_rng(0)
    for kind, size, names in (("skies", 40, "ba"), ("floors", 20, "cab")):
        (tmp_path / kind).mkdir()
        for name in names:
            pixels = rng.integers(256, size=(size, size, 4), dtype=np.uint8)
            (tmp_path / kind / f"{name}.png").write_bytes(png(pixels, SRGB))
    return tmp_path


@pytest.mark.parametrize("render", QUALITIES)
def test_frames_show_the_original_assets(assets, render):
    env = Remastered("walker-run", textures=str(assets), render=render)
    for seed in (11, 12, 13):
        frame = at_rest(env, seed)
        factors = env.visual_factors(seed)
        path = assets / "skies" / f"{'ab'[factors.sky]}.png"
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert np.array_equal(env.pictures["skies"][factors.sky](), pixels)
        assert np.array_equal(frame, remade(env, factors)[1])
    env.close()


def test_bad_picture_folders_raise(assets):
    def error_for(path, content, kind="skies"):
        (assets / kind / path).write_bytes(content)
        with pytest.raises(envs.EnvError) as error:
            env = envs.make("dmc-remastered", "walker-run", textures=str(assets))
            env.unwrapped.pictures["skies"][0]()
        (assets / kind / path).unlink()
        assert "\n" not in str(error.value)
        return str(error.value)

    small, large = (png(np.zeros((size, size, 3), np.uint8)) for size in (20, 320))
    assert "c.png is 20x20; pictures must be square and of one size" in error_for("c.png", small)
    assert "c.png is not a PNG file" in error_for("c.png", b"GIF89a")
    assert "cannot read" in error_for("0.png", png(np.zeros((40, 40, 3), np.uint8))[:40])
    for path in (assets / "floors").glob("*"):
        path.unlink()
    message = error_for("0.png", large, "floors")
    assert "floors are 320x320; the model has room for 300x300" in message
    with pytest.raises(envs.EnvError, match=r"no \*.png in .*floors; textures is a folder with"):
        envs.make("dmc-remastered", "walker-run", textures=str(assets))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vary": ["lights"]}, "unknown factor 'lights'; did you mean: light"),
        ({"texture": "assets"}, "walker-run option 'texture'; did you mean: textures?"),
    ],
)
def test_bad_options_raise(arguments, message):
    with pytest.raises(envs.EnvError) as error:
        envs.make("dmc-remastered", "walker-run", **arguments)
    assert message in str(error.value)

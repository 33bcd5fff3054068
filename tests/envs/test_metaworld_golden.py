"""Golden test of Meta-world 3.0.0 in the paper's six tasks, to detect changes in other versions.

To record `data/metaworld.npz` again: python tests/envs/test_metaworld_golden.py
"""

from pathlib import Path

import numpy as np
import pytest

import envs

PATH = Path(__file__).with_name("data") / "metaworld.npz"
TASKS = (
    "button-press-topdown-wall",
    "dial-turn",
    "door-lock",
    "drawer-open",
    "lever-pull",
    "reach",
)
STEPS, SEED = 120, 7
SHOWN = (0, 40, 80, 120)  # steps whose frames are kept


def play(task):
    """Frames, rewards, successes of the scripted expert; rewards of random actions (`closed`)."""
    env = envs.make("metaworld", task)
    frame, _ = env.reset(seed=SEED)
    frames, rewards, success = [frame], [], []
    for step in range(1, STEPS + 1):
        frame, reward, _, _, info = env.step(env.unwrapped.expert())
        rewards.append(reward)
        success.append(info["success"])
        if step in SHOWN:
            frames.append(frame)
    env.reset(seed=SEED)
    actions = np.random.default_rng(SEED).uniform(-1, 1, (40, 4)).astype(np.float32)
    actions[:, 3] = 1  # closes the gripper; the button task rewards nothing else
    closed = [env.step(action)[1] for action in actions]
    env.close()
    arrays = {"frames": frames, "rewards": rewards, "success": success, "closed": closed}
    return {f"{task}/{name}": np.array(values) for name, values in arrays.items()}


@pytest.mark.parametrize("task", TASKS)
def test_episodes_equal_the_recording(task):
    played = play(task)
    with np.load(PATH) as recorded:
        for name, values in played.items():
            if name.endswith("frames"):  # rasterisers round edges differently
                difference = np.abs(values.astype(int) - recorded[name])
                assert difference.mean((1, 2, 3)).max() < 1
            else:
                np.testing.assert_allclose(values, recorded[name], rtol=1e-4, atol=1e-6)


def test_recording_covers_success_and_rewards():
    with np.load(PATH) as recorded:
        for task in TASKS:
            assert recorded[f"{task}/success"].max() == 1
            assert np.ptp(recorded[f"{task}/closed"]) > 0.01
        assert not recorded["button-press-topdown-wall/rewards"].any()  # as in the paper's version


if __name__ == "__main__":
    np.savez_compressed(PATH, **{k: v for task in TASKS for k, v in play(task).items()})

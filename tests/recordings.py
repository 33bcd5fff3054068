"""Recorded episodes as a user might have them."""

import numpy as np

import envs
from cwm.recorded.build import import_episodes
from cwm.videos.datasets import DatasetConfig
from cwm.videos.store import ClipStore


def episode(number, frames=6, size=64, actions=2):
    """Frames of one grey, 10 * number + t; actions 0.1 * t and -0.1 * number; reward t."""
    grey = (10 * number + np.arange(frames)).astype(np.uint8)
    image = np.broadcast_to(grey[:, None, None, None], (frames, size, size, 3)).copy()
    action = np.zeros((frames - 1, actions), np.float32)
    action[:, 0], action[:, 1:] = 0.1 * np.arange(frames - 1), -0.1 * number
    return {"image": image, "action": action, "reward": np.arange(frames - 1, dtype=np.float32)}


def write_npz(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def bring_in(source, out, **settings):
    """Import a source as the dataset `own`; returns the store."""
    import_episodes("own", DatasetConfig(**{"min_frames": 2, **settings}), source, out)
    return ClipStore.open(out / "store.json")


def play(folder, episodes, task="sphere", seed=0):
    """Random episodes of a toy task, one .npz for each."""
    env = envs.make("toy", task, render="fast")
    rng = np.random.default_rng(seed)
    for number in range(episodes):
        image, _ = env.reset(seed=number)
        images, actions, rewards = [image], [], []
        ended = False
        while not ended:
            actions.append(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
            image, reward, terminated, truncated, _ = env.step(actions[-1])
            images.append(image)
            rewards.append(reward)
            ended = terminated or truncated
        write_npz(folder / f"{number:03d}.npz", image=images, action=actions, reward=rewards)
    env.close()

"""Driving: rewards, dynamics, traffic, ends of episodes, weather."""

import itertools

import numpy as np
import pytest

import envs
from envs import driving, weather


@pytest.fixture(scope="module")
def env():
    env = envs.make("driving", "clear-noon").unwrapped
    yield env
    env.close()


def drive(env, policy, seed, steps=driving.STEPS):
    """Rewards and the last step's [terminated, truncated, info], without rendering.

    `info["distance"]` is the sum over all steps.
    """
    env.begin(seed)
    rewards, distance, ended = [], 0.0, False
    while not ended and len(rewards) < steps:
        reward, *last = env.control(np.asarray(policy(), np.float32))
        rewards.append(reward)
        distance += last[2]["distance"]
        ended = last[0] or last[1]
    last[2]["distance"] = distance
    return rewards, last


def test_expert_beats_constant_actions_and_reaches_time_limit(env):
    seeds = range(3)
    expert = []
    for seed in seeds:
        rewards, (terminated, truncated, info) = drive(env, env.expert, seed)
        assert (terminated, truncated, len(rewards)) == (False, True, 1000)
        assert info["distance"] > sum(rewards) > 0.9 * info["distance"]
        expert.append(sum(rewards))
    grid = itertools.product((-0.1, 0.0, 0.1), (0.2, 0.5, 1.0))
    constants = [
        np.mean([sum(drive(env, lambda a=action: a, seed)[0]) for seed in seeds]) for action in grid
    ]
    assert np.mean(expert) > 500
    assert max(constants) < np.mean(expert) / 5


def test_leaving_the_road_terminates(env):
    rewards, (terminated, truncated, info) = drive(env, lambda: (0, 1), seed=0)
    assert (terminated, truncated) == (True, False) and abs(env.ego[1]) > driving.EDGE
    assert rewards[-1] == 0 and info["centering"] == pytest.approx(1.5 * 98.25)


def test_standing_still_terminates_at_step_100(env):
    rewards, last = drive(env, lambda: (0, -1), seed=0)
    assert len(rewards) == 100 and last[:2] == [True, False]
    assert sum(rewards) == 0


def test_grip_limits_the_turn_at_high_speed(env):
    """At low speed the wheels' angle sets the curvature, at high speed the tyres' grip."""
    turned = []
    for speed in (8.0, 28.0):
        env.begin(0)
        env.ego[2:] = 0, speed, 0.2
        env.control(np.array([0.2 / driving.STEER, 0], np.float32))
        bend = env._road.curvature(driving.START)
        turned.append(env.ego[2] / (driving.DT * speed) + bend)
    assert turned[0] == pytest.approx(np.tan(0.2) / driving.WHEELBASE, rel=0.02)
    assert turned[1] == pytest.approx(driving.GRIP / 28**2, rel=0.05)


def test_rear_end_collision_costs_and_averages_speeds(env):
    env.begin(0)
    at, left = env.ego[:2]
    env.ego[3] = 20
    env.cars[:3, 0] = at + driving.LENGTH + 0.2, left, 10
    reward, terminated, _, info = env.control(np.array([0, 0], np.float32))
    impulse = driving.MASS / 2 * 10
    assert info["collision"] == pytest.approx(0.001 * impulse, rel=0.1) and not terminated
    assert reward < -4
    assert env.ego[3] == env.cars[2, 0] == pytest.approx(15, abs=0.5)


def test_side_collision_costs_and_straightens(env):
    env.begin(0)
    at, left = env.ego[:2]
    env.ego[2:4] = 0.1, 20
    env.cars[:3, 0] = at, left + driving.WIDTH + 0.05, 20
    *_, info = env.control(np.array([0, 0], np.float32))
    assert info["collision"] == pytest.approx(0.001 * driving.MASS * 20 * np.sin(0.1), rel=0.1)
    assert env.ego[2] == 0 and abs(env.ego[1] - env.cars[1, 0]) == pytest.approx(driving.WIDTH)


def test_traffic_keeps_distance_when_a_car_stops(env):
    env.begin(3)
    slowest = []
    for step in range(600):
        env.control(env.expert() if step < 300 else np.array([0, -1], np.float32))
        for lane in driving.LANES:
            places = np.sort(env.cars[0, env.cars[1] == lane])
            assert np.diff(np.append(places, places[:1] + driving.RING)).min(initial=99) > 5
        slowest.append(env.cars[2].min())
    assert max(env.cars[3]) < driving.TOP_SPEED and slowest[0] > 10


def test_weather_changes_frames_and_not_rewards():
    frames, rewards = {}, set()
    for task in envs.tasks("driving"):
        env = envs.make("driving", task)
        env.reset(seed=1)
        frames[task], reward, *_ = env.step(np.array([0.1, 1.0]))
        rewards.add(reward)
        env.close()
    assert len(rewards) == 1
    assert len({frame.tobytes() for frame in frames.values()}) == len(frames)
    brightness = {task: frame.mean() for task, frame in frames.items()}
    assert brightness["clear-noon"] > brightness["wet-sunset"] + 20
    assert frames["hard-rain-noon"][:40].std() < frames["clear-noon"][:40].std()  # fog


def test_dynamic_weather_changes_slowly():
    env = envs.make("driving", "dynamic").unwrapped
    env.begin(0)
    before = env.weather
    for _ in range(100):
        env._sky = weather.advance(env._sky)
    change = np.abs(np.subtract(env.weather, before)[:5])
    assert change[3] > 0.5 and change[:4].max() < 100  # 5 s; wetness is five times the storm
    assert change[4] in (pytest.approx(2.5), pytest.approx(357.5))
    skies = []
    for seed in range(8):
        env.begin(seed)
        skies.append(env.weather[:5])
    assert np.std(skies, axis=0).min() > 1
    env.close()

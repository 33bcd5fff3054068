"""Vectorised environments, in this process or each in its own process."""

import contextlib
import logging
import multiprocessing.connection
import signal
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from numpy.typing import NDArray

import envs
from envs.errors import EnvError
from envs.pixels import SIZE

log = logging.getLogger(__name__)
SECONDS = 300.0  # timeout of a reset or step; one in reference quality takes about a second


class WorkerError(EnvError):
    """An environment failed in its process, or the process died or did not answer in time."""


def make(suite: str, task: str, count: int, processes: bool = False, **options: Any) -> VectorEnv:
    """`count` environments of `envs.make`, with the same episodes as single ones.

    `reset(seed=[...])` begins an episode in each member whose seed is not None. There is no
    autoreset: after its episode a member is idle, and `step` returns its last frame, a reward of 0,
    False, False and an empty info.

    Args:
        suite: as for `envs.make`.
        task: as for `envs.make`.
        count: number of environments.
        processes: run each in its own process, instead of all in this one.
        options: as for `envs.make`.

    Raises:
        EnvError: as for `envs.make`. With `processes`, WorkerError; also in `reset` and `step`.
    """
    if processes:
        return _Processes(f"{suite}/{task}", [partial(_in_child, suite, task, options)] * count)
    return SyncVectorEnv([partial(_member, suite, task, options)] * count)


def _member(suite: str, task: str, options: dict[str, Any]) -> gymnasium.Env:
    return Member(envs.make(suite, task, **options))


def _in_child(suite: str, task: str, options: dict[str, Any]) -> gymnasium.Env:
    if multiprocessing.parent_process() is not None:  # Gymnasium creates one in the parent too
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    return _member(suite, task, options)


class Member(gymnasium.Wrapper):
    """An environment that is idle after its episode, ignoring the autoreset of Gymnasium."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._idle = True
        self._frame: NDArray[np.uint8] = np.zeros((SIZE, SIZE, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Begin the episode of a seed; without one, become idle."""
        self._idle = seed is None
        if not self._idle:
            self._frame, _ = self.env.reset(seed=seed)
        return self._frame, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """A step of the episode; when idle, the last frame and a reward of 0."""
        if self._idle:
            return self._frame, 0.0, False, False, {}
        self._frame, reward, terminated, truncated, info = self.env.step(action)
        return self._frame, float(reward), terminated, truncated, info


class _Processes(AsyncVectorEnv):
    """Raises WorkerError if one of its processes fails, dies or hangs, and kills the others."""

    def __init__(self, name: str, makers: list[partial]) -> None:
        self._name = name
        with self._watched():
            super().__init__(makers, context="spawn", shared_memory=True)

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        with self._watched():
            self.reset_async(**kwargs)
            return self.reset_wait(SECONDS)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict]:
        with self._watched():
            self.step_async(actions)
            return self.step_wait(SECONDS)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Convert the errors of a broken pipe and of a timeout into WorkerError."""
        try:
            yield
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            dead = multiprocessing.connection.wait([each.sentinel for each in self.processes])
            index = [each.sentinel in dead for each in self.processes].index(True)
            self.processes[index].join()
            how = f"died with exit status {self.processes[index].exitcode}"
            raise self._failure(index, how) from error
        except multiprocessing.TimeoutError as error:
            silent = [i for i, pipe in enumerate(self.parent_pipes) if not pipe.poll()]
            index = silent[0] if silent else 0  # all have answered by now
            raise self._failure(index, f"did not answer within {SECONDS:g} s") from error

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        if not all(successes):
            index, _, _, trace = self.error_queue.get()
            log.error("%s", trace)
            raise self._failure(index, f"failed: {trace.strip().splitlines()[-1]}")

    def _failure(self, index: int, how: str) -> WorkerError:
        self._state = AsyncState.DEFAULT  # else `close` would wait for an answer
        for process in self.processes:
            process.kill()  # it may be unable to exit
        self.close(terminate=True)
        return WorkerError(f"process {index + 1} of {self.num_envs} of {self._name} {how}")

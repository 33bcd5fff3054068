"""Several environments stepped together, in this process or each in a process of its own."""

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
SECONDS = 300.0  # that a reset or a step may take in a process; reference quality needs one


class WorkerError(EnvError):
    """An environment failed in its process, or the process died or does not answer."""


def make(suite: str, task: str, count: int, processes: bool = False, **options: Any) -> VectorEnv:
    """`count` environments of `envs.make`, whose episodes are those that they have alone.

    Episodes begin by `reset(seed=[...])`; a member whose seed is None has none. From the end of its
    episode on a member rests: its frame stays, its rewards are 0, its ends False, its info empty.

    Args:
        suite: as for `make`.
        task: as for `make`.
        count: how many.
        processes: each in a process of its own; else all in this one.
        options: as for `make`.
    """
    if processes:
        return _Processes(f"{suite}/{task}", [partial(_in_child, suite, task, options)] * count)
    return SyncVectorEnv([partial(_member, suite, task, options)] * count)


def _member(suite: str, task: str, options: dict[str, Any]) -> gymnasium.Env:
    return Member(envs.make(suite, task, **options))


def _in_child(suite: str, task: str, options: dict[str, Any]) -> gymnasium.Env:
    if multiprocessing.parent_process() is not None:  # Gymnasium makes one in the parent too
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it
    return _member(suite, task, options)


class Member(gymnasium.Wrapper):
    """Rests from the end of its episode on; Gymnasium resets it then, which it does not heed."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._resting = True
        self._frame: NDArray[np.uint8] = np.zeros((SIZE, SIZE, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Begin the episode of a seed; without one, rest."""
        self._resting = seed is None
        if not self._resting:
            self._frame, _ = self.env.reset(seed=seed)
        return self._frame, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """A step of the episode, if there is one."""
        if self._resting:
            return self._frame, 0.0, False, False, {}
        self._frame, reward, terminated, truncated, info = self.env.step(action)
        return self._frame, float(reward), terminated, truncated, info


class _Processes(AsyncVectorEnv):
    """Stops, naming the environment and the reason, when one of its processes does or hangs."""

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
        """What Gymnasium says when a process is gone is that its pipe is."""
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
            index = silent[0] if silent else 0  # all have answered just now
            raise self._failure(index, f"did not answer within {SECONDS:g} s") from error

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        if not all(successes):
            index, _, _, trace = self.error_queue.get()
            log.error("%s", trace)
            raise self._failure(index, f"failed: {trace.strip().splitlines()[-1]}")

    def _failure(self, index: int, how: str) -> WorkerError:
        self._state = AsyncState.DEFAULT  # or closing would wait for what never comes
        for process in self.processes:
            process.kill()  # it may not be able to end by itself
        self.close(terminate=True)
        return WorkerError(f"process {index + 1} of {self.num_envs} of {self._name} {how}")

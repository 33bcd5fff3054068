"""Find an environment from outside this package by name, and make it."""

import difflib
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from envs.errors import EnvError
from envs.rendering import choose_opengl


def create(make: str, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """Make an environment.

    Args:
        make: MODULE:FACTORY, a Gymnasium id, or MODULE:ID if importing the module registers the id.
            FACTORY is a class or function that returns a `gymnasium.Env`.
        kwargs: keyword arguments of the factory, or of `gymnasium.make`. `render_mode` is
            `rgb_array` by default if the environment's class declares that mode.

    Raises:
        EnvError: there is no such environment, or it fails.
    """
    module, colon, name = make.rpartition(":")
    if not name or (colon and not all(part.isidentifier() for part in module.split("."))):
        raise EnvError(
            f"env.make is {make!r}; it must be MODULE:FACTORY, such as my_package.envs:make_walk,"
            " or a Gymnasium id, such as Pusher-v5"
        )
    choose_opengl()
    with failing(make, "import"):
        home = _import(module) if colon else None
    creator: Any
    if home and name.isidentifier():
        creator = factory = _member(home, name)
    else:
        spec = gymnasium.registry.get(name)
        if spec is None:
            remedy = f"if a package registers it, write PACKAGE:{name}"
            raise _unknown("Gymnasium id", name, gymnasium.registry, remedy)
        factory = partial(gymnasium.make, spec, disable_env_checker=True)
        with failing(make, "import"):
            entry: Any = spec.entry_point
            creator = load_env_creator(entry) if isinstance(entry, str) else entry
    metadata = getattr(creator, "metadata", None)  # of a class
    if isinstance(metadata, Mapping) and "rgb_array" in metadata.get("render_modes", ()):
        kwargs = {"render_mode": "rgb_array", **kwargs}
    with failing(make, "construction"):
        env = factory(**kwargs)
    if not isinstance(env, gymnasium.Env):
        raise EnvError(f"{make} returned a {type(env).__name__}, not a gymnasium.Env")
    return env


@contextmanager
def failing(name: str, what: str) -> Iterator[None]:
    """Turn any error of an environment's own code into EnvError, with its place."""
    try:
        yield
    except EnvError:
        raise
    except Exception as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        raise EnvError(
            f"{name}: {what} failed with {type(error).__name__}: {one_line(error)}"
            f" ({last.filename}, line {last.lineno})"
        ) from error


def one_line(value: object) -> str:
    """The text of a value without line breaks."""
    return " ".join(str(value).split())


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{name}.".startswith(f"{missing}."):
            raise EnvError(
                f"{name} needs the module {missing!r}, which is not installed"
            ) from error
        parent = missing.rpartition(".")[0]
        places = getattr(sys.modules[parent], "__path__", []) if parent else None
        names = [f"{parent}.{x.name}".strip(".") for x in pkgutil.iter_modules(places)]
        remedy = "install it, or add its folder to PYTHONPATH"
        raise _unknown("module", missing, names, remedy) from error


def _member(module: ModuleType, name: str) -> Callable[..., Any]:
    factory = getattr(module, name, None)
    if not callable(factory):
        names = [x for x, value in vars(module).items() if callable(value) and x[0] != "_"]
        remedy = f"the module has {', '.join(names[:8]) or 'no functions or classes'}"
        raise _unknown(f"factory in {module.__name__}", name, names, remedy)
    return factory


def _unknown(what: str, name: str, valid: Iterable[str], remedy: str) -> EnvError:
    near = difflib.get_close_matches(name, sorted(valid), n=3)
    hint = f"did you mean: {', '.join(near)}?" if near else remedy
    return EnvError(f"unknown {what} {name!r}; {hint}")

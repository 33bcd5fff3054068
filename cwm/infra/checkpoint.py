"""Weights and work in progress, as safetensors and JSON: written whole or not at all.

A checkpoint is a folder whose last-written file is `done`, which has the sha256 of the others.
Weights are `weights.safetensors` with a small `weights.json` beside it, which names its sha256 and
is what other steps depend on.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, NonNegativeInt, StringConstraints
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import sha256, write_bytes, write_text


class Index(TypedDict):
    """A `weights.json`; what else it says is up to who wrote it."""

    __pydantic_config__ = ConfigDict(extra="allow")
    file: Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*$")]  # beside it
    sha256: str


class State(TypedDict):
    """A `state.json`; what else it says is up to the run."""

    __pydantic_config__ = ConfigDict(extra="allow")
    step: NonNegativeInt
    logs: dict[str, tuple[NonNegativeInt, str]]  # name -> size and sha256


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors atomically. (`save_file` swallows the OSError and writes mode 0600.)"""
    write_bytes(path, save({name: x.detach().cpu().contiguous() for name, x in tensors.items()}))


def save_weights(folder: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write `weights.safetensors`, then `weights.json` with its sha256 and what it is."""
    path = folder / "weights.safetensors"
    write_tensors(path, tensors)
    about = {"file": path.name, "sha256": sha256(path), **about}
    write_text(folder / "weights.json", json.dumps(about, indent=1) + "\n")


def load_weights(index: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that a `weights.json` describes, and the description."""
    about = json_file.read(index, Index)
    path = index.parent / about["file"]
    try:
        if sha256(path) != about["sha256"]:
            raise UserError(f"{path} is damaged: its sha256 is not the one in {index}")
        return load_file(path), about
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights of {index}: {error}") from error


def load_parts(parts: dict[str, nn.Module], tensors: dict[str, Tensor], source: Path) -> None:
    """Fill each named part from the tensors `<name>.*`; every name and shape must agree."""
    for part, module in parts.items():
        prefix = part + "."
        own = {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise UserError(
                f"{source} does not fit the model: {part}: {first} (was it pre-trained with the"
                " same model and scale?)"
            ) from error


def check_state_dict(mine: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    """Raise ValueError unless names, shapes and types are the same."""
    odd = {(name, x.shape, x.dtype) for name, x in mine.items()}
    odd ^= {(name, x.shape, x.dtype) for name, x in given.items()}
    if odd:
        raise ValueError(f"{min(name for name, _, _ in odd)} is missing or of another kind")


def load_strict(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a module back its own tensors; ValueError where they are another's."""
    check_state_dict(module.state_dict(), tensors)
    module.load_state_dict(tensors)


def _sums(folder: Path) -> dict[str, str]:
    """What `done` must say: the sha256 of every other file."""
    return {path.name: sha256(path) for path in folder.iterdir() if path.name != "done"}


_UNFIT = (AttributeError, KeyError, TypeError, ValueError, SafetensorError)


class Checkpoints:
    """Checkpoints of one run, in its work folder; only the newest complete one is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Write a checkpoint of groups of tensors and a JSON state, then drop the older ones."""
        target = self.folder / f"{step:09d}"
        for old in self.folder.glob("*"):
            if old == target or not (old / "done").exists():  # what a kill or a full disk left
                shutil.rmtree(old)
        target.mkdir(parents=True)
        for group, named in tensors.items():
            write_tensors(target / f"{group}.safetensors", named)
        write_text(target / "state.json", json.dumps(state))
        write_text(target / "done", json.dumps(_sums(target)))
        for old in self.folder.iterdir():
            if old != target:
                shutil.rmtree(old)

    def latest(self) -> tuple[dict[str, dict[str, Tensor]], State] | None:
        """The newest complete checkpoint, or None to begin at the beginning.

        Raises UserError where it is not what was written.
        """
        folder = self._newest()
        if folder is None:
            return None
        try:
            odd = json_file.read(folder / "done", dict[str, str]).items() ^ _sums(folder).items()
            if odd:
                raise ValueError(f"{min(odd)[0]} is not what was written")
            state = json_file.read(folder / "state.json", State)
            groups = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
        except (OSError, *_UNFIT) as error:
            raise self._damaged(error) from error
        return groups, state

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """A run takes the latest back inside; where that does not fit, it is called damaged."""
        try:
            yield
        except UserError:
            raise
        except _UNFIT as error:
            raise self._damaged(error) from error

    def _newest(self) -> Path | None:
        return max((done.parent for done in self.folder.glob("*/done")), default=None)

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"checkpoint {self._newest()} is damaged ({error}); put it back, or delete"
            f" {self.folder.parent} to begin this run anew"
        )

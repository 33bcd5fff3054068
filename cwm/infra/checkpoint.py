"""Weights and checkpoints, as safetensors and JSON files that are written atomically.

A checkpoint is a folder. Its file `done` is written last and has the sha256 of the others. Weights
are `weights.safetensors` with a small `weights.json` beside it, which has the sha256; later steps
depend on `weights.json`.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, NonNegativeInt, StringConstraints, with_config
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import sha256, write_bytes, write_text


@with_config(ConfigDict(extra="allow"))
class Index(TypedDict):
    """Content of weights.json; the writer may add keys."""

    file: Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*$")]  # in the same folder
    sha256: str


@with_config(ConfigDict(extra="allow"))
class State(TypedDict):
    """Content of state.json; the run adds keys."""

    step: NonNegativeInt
    logs: dict[str, tuple[NonNegativeInt, str]]  # name -> size and sha256


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors atomically. (`save_file` swallows the OSError and writes mode 0600.)"""
    write_bytes(path, save({name: x.detach().cpu().contiguous() for name, x in tensors.items()}))


def save_weights(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write weights.safetensors, then weights.json with its sha256 and the metadata."""
    path = folder / "weights.safetensors"
    write_tensors(path, tensors)
    metadata = {"file": path.name, "sha256": sha256(path), **metadata}
    write_text(folder / "weights.json", json.dumps(metadata, indent=1) + "\n")


def load_weights(index: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the metadata of a weights.json; UserError if they are damaged."""
    metadata = json_file.read(index, Index)
    path = index.parent / metadata["file"]
    try:
        if sha256(path) != metadata["sha256"]:
            raise UserError(f"{path} is damaged: its sha256 is not the one in {index}")
        return load_file(path), dict(metadata)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights of {index}: {error}") from error


def load_parts(parts: dict[str, nn.Module], tensors: dict[str, Tensor], source: Path) -> None:
    """Load each module from the tensors `<name>.*`; UserError unless all names and shapes match."""
    for part, module in parts.items():
        prefix = part + "."
        state = {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            problem = f"{source} does not fit the model: {part}: {first}"
            raise UserError(f"{problem}; pre-train with the same model and scale") from error


def check_state_dict(expected: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    """Raise ValueError unless names, shapes and dtypes are the same."""
    wrong = {(name, x.shape, x.dtype) for name, x in expected.items()}
    wrong ^= {(name, x.shape, x.dtype) for name, x in given.items()}
    if wrong:
        name = min(name for name, _, _ in wrong)
        raise ValueError(f"{name} is missing, unexpected, or has the wrong shape or dtype")


def load_strict(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load a state dict; ValueError unless names, shapes and dtypes match."""
    check_state_dict(module.state_dict(), tensors)
    module.load_state_dict(tensors)


def _checksums(folder: Path) -> dict[str, str]:
    """Return the content of `done`: the sha256 of every other file."""
    return {path.name: sha256(path) for path in folder.iterdir() if path.name != "done"}


_MISMATCH = (AttributeError, KeyError, TypeError, ValueError, SafetensorError)


class Checkpoints:
    """The checkpoints of one run; only the newest complete one is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Write a checkpoint of groups of tensors and a JSON state, then delete older ones."""
        target = self.folder / f"{step:09d}"
        for old in self.folder.glob("*"):
            if old == target or not (old / "done").exists():  # incomplete
                shutil.rmtree(old)
        target.mkdir(parents=True)
        for group, named in tensors.items():
            write_tensors(target / f"{group}.safetensors", named)
        write_text(target / "state.json", json.dumps(state))
        write_text(target / "done", json.dumps(_checksums(target)))
        for old in self.folder.iterdir():
            if old != target:
                shutil.rmtree(old)

    def latest(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """Return the newest complete checkpoint, or None; UserError if it is damaged."""
        folder = self._newest()
        if folder is None:
            return None
        try:
            expected = json_file.read(folder / "done", dict[str, str])
            if changed := expected.items() ^ _checksums(folder).items():
                raise ValueError(f"{min(changed)[0]} has changed since it was written")
            state = json_file.read(folder / "state.json", State)
            groups = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
        except (OSError, *_MISMATCH) as error:
            raise self._damaged(error) from error
        return groups, dict(state)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Report errors of restoring the latest checkpoint, inside this context, as its damage."""
        try:
            yield
        except UserError:
            raise
        except _MISMATCH as error:
            raise self._damaged(error) from error

    def _newest(self) -> Path | None:
        return max((done.parent for done in self.folder.glob("*/done")), default=None)

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"checkpoint {self._newest()} is damaged ({error}); restore it from a copy,"
            f" or delete {self.folder.parent} to restart this run"
        )

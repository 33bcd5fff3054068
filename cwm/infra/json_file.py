"""Read JSON files and check their content against a type."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

from cwm.infra.errors import UserError, explain_validation

T = TypeVar("T")


@overload
def read(path: Path, *, remedy: str = "") -> dict[str, Any]: ...
@overload
def read(path: Path, kind: type[T], remedy: str = "") -> T: ...
def read(path: Path, kind: Any = dict[str, Any], remedy: str = "") -> Any:
    """Content of a file as `kind`, any type that pydantic can validate.

    Raises UserError with the file, the problem, and `remedy` if there is one.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), kind, str(path), remedy)
    except UnicodeDecodeError as error:
        problem = f"{path} is not JSON: {error}"
    except OSError as error:
        problem = f"cannot read {path}: {error.strerror}"
    raise UserError(_with(remedy, problem))


def parse(text: str, kind: type[T], source: str, remedy: str = "") -> T:
    """Parse a JSON string as `read` does; `source` names it in errors."""
    try:
        return _adapter(kind).validate_python(json.loads(text))
    except ValidationError as error:
        problem = explain_validation(source, error)
    except (ValueError, RecursionError) as error:
        problem = f"{source} is not JSON: {error}"
    raise UserError(_with(remedy, problem))


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def _with(remedy: str, problem: str) -> str:
    return f"{problem}; {remedy}" if remedy else problem

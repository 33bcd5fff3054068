"""JSON files, whose content is checked here against the type that it must have."""

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cwm.infra.errors import UserError

T = TypeVar("T")


def read(path: Path, kind: type[T] = dict[str, Any], remedy: str = "") -> T:
    """The content of a file as `kind`, a type that pydantic knows.

    Raises UserError naming the file, what is wrong, and the remedy, if there is one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(_with(remedy, f"{path} is not JSON: {error}")) from None
    except OSError as error:
        raise UserError(_with(remedy, f"cannot read {path}: {error.strerror}")) from None
    return parse(text, kind, str(path), remedy)


def parse(text: str, kind: type[T], source: str, remedy: str = "") -> T:
    """The same of a text."""
    try:
        return _adapter(kind).validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        said = f"{source} is not what it should be: {where}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        said = f"{source} is not JSON: {error}"
    raise UserError(_with(remedy, said))


_adapter = cache(TypeAdapter)


def _with(remedy: str, said: str) -> str:
    return f"{said}; {remedy}" if remedy else said

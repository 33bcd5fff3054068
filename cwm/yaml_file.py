"""YAML files, which are all read here."""

from pathlib import Path
from typing import Any

import yaml

from cwm.errors import UserError, unknown


def read(path: Path) -> dict[str, Any]:
    """One YAML file as a mapping; an empty one says that nothing differs."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    except OSError as error:
        near = unknown("file", path.name, (p.name for p in path.parent.glob("*.yaml")))
        raise UserError(f"cannot read {path}: {error.strerror}; {near}") from None
    return mapping(parse(text, str(path)), str(path))


def parse(text: str, source: str) -> Any:
    """What YAML says, of which the plain kinds are known; UserError naming its source."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a thirteenth month, and the like
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{source} is nested too deeply") from None


def mapping(content: Any, what: str) -> dict[str, Any]:
    """Settings by their names; nothing is an empty mapping, anything else a UserError."""
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"{what} holds a {type(content).__name__}; it must be a mapping of settings"
        )
    for name in content:
        if not isinstance(name, str):
            raise UserError(
                f"{what}: {name!r} is a {type(name).__name__}, not the name of a setting"
            )
    return content

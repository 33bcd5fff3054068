"""YAML files, which are all read here."""

from pathlib import Path
from typing import Any

import yaml

from cwm.errors import UserError, unknown


def read(path: Path) -> dict[str, Any]:
    """One YAML file as a mapping; an empty one says that nothing differs."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        near = unknown("file", path.name, (p.name for p in path.parent.glob("*.yaml")))
        raise UserError(f"cannot read {path}: {error.strerror}; {near}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if content is not None and not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{path} holds a {kind}; it must be a mapping of settings")
    return content or {}

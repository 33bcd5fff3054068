"""Read YAML files; every YAML file is read here."""

import math
import reprlib
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from cwm.infra.errors import UserError, unknown

LIMIT = 100_000  # nodes of a file after alias expansion


class _Loader(yaml.SafeLoader):
    """SafeLoader that limits alias expansion and reports text that does not fit its tag."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > LIMIT:
            raise yaml.YAMLError(f"with aliases expanded, it has more than {LIMIT} values")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as error:
            message = f"{reprlib.repr(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from error


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Count the nodes of a tree after alias expansion; infinite if a node contains itself."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        children = () if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = chain.from_iterable(children)
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    return sizes[id(node)]


def read(path: Path) -> dict[str, Any]:
    """Read a YAML file as a mapping; an empty file is an empty mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    except OSError as error:
        names = [p.name for p in path.parent.glob("*.yaml")]
        near = f"; {unknown('file', path.name, names)}" if names else ""
        raise UserError(f"cannot read {path}: {error.strerror}{near}") from None
    return mapping(parse(text, str(path)), str(path))


def parse(text: str, source: str) -> Any:
    """Parse YAML with SafeLoader's types; UserError names the `source`."""
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # invalid character codes too
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{source} is nested too deeply") from None


def mapping(content: Any, what: str) -> dict[str, Any]:
    """Return settings by name; None is an empty mapping, anything else a UserError."""
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{what} holds a {kind}; it must be a mapping of settings")
    for name in content:
        if not isinstance(name, str):
            raise UserError(f"{what}: {name!r} is a {type(name).__name__}, not a setting's name")
    return content

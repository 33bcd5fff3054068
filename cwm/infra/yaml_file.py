"""YAML files, which are all read here."""

import math
import reprlib
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from cwm.infra.errors import UserError, unknown

LIMIT = 100_000  # values in a file, those counted again that it names again


class _Loader(yaml.SafeLoader):
    """The plain kinds, of which a tag may ask what a text is not, and aliases cannot explode."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > LIMIT:
            raise yaml.YAMLError(f"with its aliases written out, it has more than {LIMIT} values")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as error:
            said = f"{reprlib.repr(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from error


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """How many values there are below a node, and it; endless if it is one of them."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        below = () if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            below = chain.from_iterable(below)
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in below)
    return sizes[id(node)]


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
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # or a code of no character
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

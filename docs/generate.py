"""Write the generated pages of the documentation, docs/reference/*.md, for `make docs`.

Settings come from the dataclasses of `cwm.config` and the comments in them, commands from `--help`,
Python from docstrings.
"""

import ast
import inspect
import io
import json
import re
import subprocess
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import gymnasium

import envs
from cwm import config, models
from cwm.videos.store import ClipStore

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).with_name("reference")
SCHEMA = config.ADAPTER.json_schema()
API = {
    "Trained models": [models.load],
    "Pre-trained models": [models.VideoModel],
    "Agents and models with actions": [models.ActionModel, models.AgentModel, models.Dream],
    "Environments": [envs.make, envs.tasks],
    "Clips": [ClipStore],
}


def settings() -> str:
    """config/README.md, then a table of each section of the settings."""
    tables = [table for name, part in SCHEMA["properties"].items() for table in section(name, part)]
    text = (ROOT / "config/README.md").read_text()
    return "\n".join([text, "## All settings\n", *tables])


def section(path: str, part: dict[str, Any]) -> Iterator[str]:
    """The settings of `part`, which refers to a dataclass in the schema, and those below."""
    name = next(references(part))
    described, defaults, below = comments(dataclasses()[name]), part.get("default"), []
    yield f"### {path}\n\n{SCHEMA['$defs'][name]['description']}\n"
    rows = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, entry in SCHEMA["$defs"][name]["properties"].items():
        if isinstance(defaults, dict) and key in defaults:
            entry = {**entry, "default": defaults[key]}
        if refers := any(references(entry)):
            below.append((f"{path}.{key}", entry))
        if "$ref" not in entry:
            default = f"`{json.dumps(entry['default'])}`" if "default" in entry else "required"
            default = "below" if isinstance(entry.get("default"), dict) and refers else default
            row = f"`{key}`", kind(entry), default, described[key]
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")
    if len(rows) > 2:
        yield "\n".join(rows) + "\n"
    for key, entry in below:
        yield from section(key, entry)


def references(entry: Any) -> Iterator[str]:
    """Names of the dataclasses in an entry of the schema."""
    if isinstance(entry, dict):
        if "properties" in SCHEMA["$defs"].get(name := entry.get("$ref", "")[8:], ()):
            yield name
        for key in ("anyOf", "items", "prefixItems"):
            yield from references(entry.get(key))
    elif isinstance(entry, list):
        for item in entry:
            yield from references(item)


def kind(entry: dict[str, Any]) -> str:
    """The type of a setting in words."""
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(map(kind, entry["anyOf"])))
    if "const" in entry or "enum" in entry:
        return ", ".join(f"`{x}`" for x in entry.get("enum", [entry.get("const")]))
    if entry.get("type") == "array":
        inside = entry.get("items") or {"anyOf": entry["prefixItems"]}
        return f"list of {kind(inside)}"
    if "$ref" in entry:
        return "mapping"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {entry[name]:g}" for name, sign in bounds.items() if name in entry]
    return f"{entry.get('type', 'any').replace('object', 'mapping')} {', '.join(limits)}".strip()


def dataclasses(inside: Any = config.Config) -> dict[str, type]:
    """All dataclasses of the settings by name."""
    found = {inside.__name__: inside} if is_dataclass(inside) else {}
    hints = get_type_hints(inside).values() if found else get_args(inside)
    for hint in hints:
        found |= dataclasses(hint)
    return found


def comments(cls: type) -> dict[str, str]:
    """The comment of each field: on lines of its own directly above, and on the field's line."""
    source = textwrap.dedent(inspect.getsource(cls))
    found: dict[str, str] = dict.fromkeys(get_type_hints(cls), "")
    above, name = "", ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string.lstrip("# ")
        if token.type == tokenize.NAME and token.start[1] == 4 and text in found:
            name, above, found[text] = text, "", above and f"{above.rstrip('.')}. "
        elif token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            above = f"{above} {text}".strip()
        elif token.type == tokenize.COMMENT:
            found[name] += text
    return found


def commands() -> str:
    """What `--help` prints, of every command."""
    typer = (sys.executable, "-m", "typer", "cwm.cli", "utils", "docs")
    options = ("--name", "cwm", "--title", "Commands")
    done = subprocess.run([*typer, *options], check=True, capture_output=True, text=True, cwd=ROOT)
    # Its list of commands cuts their first sentences off.
    return re.sub(r"\*\*Commands\*\*:\n.*?(?=\n## )", "", done.stdout, flags=re.DOTALL)


def python() -> str:
    """The public functions and classes of API, and the ids of the environments."""
    parts, seen = ["# Python", prose(models)], set[Any]()
    for title, members in API.items():
        parts.append(f"## {title}")
        for member in members:
            parts += document(member, seen)
    ids = ", ".join(f"`{name}`" for name in gymnasium.registry if name.startswith("cwm/"))
    return "\n\n".join([*parts, "## Gymnasium ids", f"`import envs` registers {ids}."]) + "\n"


def document(member: Any, seen: set[Any]) -> Iterator[str]:
    """A function, or a class with those of its public methods that are not in `seen` yet."""
    if not inspect.isclass(member):
        name = {models.load: "cwm.load"}.get(member, f"envs.{member.__name__}")
        yield from (f"### {name}", signature(name, member), prose(member))
        return
    base = member.__base__.__name__
    yield from (f"### {member.__name__}", prose(member))
    if base[0] != "_" and base != "object":
        yield f"It has the methods of `{base}` too."
    for name, value in inspect.getmembers(member):
        public = name[0] != "_" and (inspect.isfunction(value) or isinstance(value, property))
        if public and value not in seen:
            seen.add(value)
            title = f"{member.__name__}.{name}"
            yield from (f"#### {title}", signature(title, value), prose(value))


def signature(name: str, value: Any) -> str:
    """A code block with the call, as the source spells its types."""
    function = value.fget if isinstance(value, property) else value
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef) and node.returns
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    call = name if isinstance(value, property) else f"{name}({arguments})"
    if len(call) > 80:
        split = ",\n    ".join(re.split(r", (?=[*\w]+[:,)]|\*)", arguments))
        call = f"{name}(\n    {split},\n)"
    return f"```python\n{call} -> {ast.unparse(node.returns)}\n```"


def prose(member: Any) -> str:
    """A docstring as Markdown: its sections (Args, Raises) become lists."""
    text = inspect.getdoc(member)
    assert text, f"{member} has no docstring"
    text = re.sub(r"^(Args|Raises):$", r"**\1**\n", text, flags=re.MULTILINE)
    text = re.sub(r"^ {4}(\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    return re.sub(r"^ {8}(?=\S)", "    ", text, flags=re.MULTILINE)


def main() -> None:
    """Write all pages."""
    OUT.mkdir(exist_ok=True)
    for page in (settings, commands, python):
        (OUT / f"{page.__name__}.md").write_text(page())


if __name__ == "__main__":
    main()

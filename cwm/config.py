"""Settings: YAML files over the defaults, which are the paper's values.

    cfg = load([Path("config/suite/toy.yaml"), Path("config/scale/laptop.yaml")], task="sphere")

Later files win. Mappings are merged, everything else is replaced. A file states only differences.
"""

import difflib
import json
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cwm.infra.errors import UserError, unknown
from cwm.infra.yaml_file import mapping, parse, read
from cwm.settings import (
    AdaptConfig,
    BaselinesConfig,
    FinetuneConfig,
    InvarianceConfig,
    ModelConfig,
    PredictConfig,
    PretrainConfig,
    RepresentConfig,
    RuntimeConfig,
)
from cwm.train.environment import EnvConfig
from cwm.videos.datasets import DatasetConfig

LABELS = ("dataset", "model", "suite", "variant", "scale")  # folders of config/


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Config:
    """All settings, in one section per stage or part."""

    runtime: RuntimeConfig = RuntimeConfig()
    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    predict: PredictConfig = PredictConfig()
    represent: RepresentConfig = RepresentConfig()
    invariance: InvarianceConfig = InvarianceConfig()
    env: EnvConfig = EnvConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    adapt: AdaptConfig = AdaptConfig()
    baselines: BaselinesConfig = BaselinesConfig()


ADAPTER = TypeAdapter(Config)


Layer = tuple[str, dict[str, Any]]  # a source, for error messages, and its settings


def load(
    files: Sequence[Path], sets: Sequence[str] | None = None, task: str | None = None
) -> Config:
    """Merge YAML files, then `key.path=value` words, over the defaults.

    A suite's file lists its tasks and their own settings under `tasks`. A scale's file may hold
    settings of single suites under `suites`. `task` and the suite's file select among them.
    Raises UserError that names the file, the setting, and valid values.
    """
    suite = labels(files).get("suite")
    layers = [layer for path in files for layer in _layers(path, suite, task)]
    layers += [(f"--set {word}", _parse_set(word)) for word in sets or ()]
    return _validate(layers)


def _layers(path: Path, suite: str | None, task: str | None) -> Iterator[Layer]:
    """Yield the settings of a file, then those for the selected suite and task."""
    values = read(path)
    kinds = ("suites", "tasks")
    options = {kind: mapping(values.pop(kind, None), f"{path}: {kind}") for kind in kinds}
    yield str(path), values
    for kind, selected in (("suites", suite), ("tasks", task)):
        for name, own in options[kind].items():
            source = f"{path}, {kind} {name}"
            layer = source, mapping(own, source)
            _validate([layer])  # also when not selected
            if name == selected:
                yield layer
    if task is not None and options["tasks"] and task not in options["tasks"]:
        raise unknown("task", task, options["tasks"])


def _validate(layers: list[Layer]) -> Config:
    values: dict[str, Any] = {}
    for _, own in layers:
        values = merge(values, own)
    try:
        return ADAPTER.validate_python(values)
    except ValidationError as error:
        raise _explain(error, layers) from None


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge `above` over `below` key by key; values that are not mappings are replaced."""
    result = below | above
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            result[key] = merge(below[key], above[key])
    return result


def labels(files: Iterable[Path]) -> dict[str, str]:
    """Names of a run by its files: `config/model/plain.yaml` gives `{"model": "plain"}`."""
    return {path.parent.name: path.stem for path in files if path.parent.name in LABELS}


def resolved(cfg: Config, sections: Iterable[str]) -> dict[str, Any]:
    """Plain values of some sections, with defaults."""
    values = ADAPTER.dump_python(cfg, mode="json")
    return {section: values[section] for section in sections}


def schema() -> str:
    """JSON schema of a settings file."""
    file = ADAPTER.json_schema()
    for name in ("suites", "tasks"):
        file["properties"][name] = {"type": "object", "description": f"settings of single {name}"}
    return json.dumps(file, indent=1)


def _parse_set(word: str) -> dict[str, Any]:
    """Parse `key.path=value`; the value of a text or path setting is taken literally."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise UserError(f"--set {word!r} must look like key.path=value")
    location = key.split(".")
    literal = _is_text(location) and value not in ("", "null") and value[0] not in "'\""
    result: Any = value if literal else parse(value, f"--set {word}")
    for part in reversed(location):
        result = {part: result}
    return result


def _is_text(location: Sequence[str]) -> bool:
    """Whether the setting at `location` is a text or a path, which YAML could read as a number."""
    *section, name = location
    kind = _settings(section).get(name)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return bool({str, Path}.intersection(kinds))


def _settings(section: Sequence[str]) -> dict[str, Any]:
    """Names and types of the settings of a section, such as `["model", "context"]`; maybe none."""
    hints = get_type_hints(Config)
    for part in section:
        kind = hints.get(part)
        hints = next((get_type_hints(x) for x in (kind, *get_args(kind)) if is_dataclass(x)), {})
    return hints


def _explain(error: ValidationError, layers: list[Layer]) -> UserError:
    """Describe the first error: the source, the setting, and valid values."""
    first = error.errors()[0]
    # pydantic adds the index of a list item, the type of a union that it tried, such as
    # tuple[float, float], and the class name of an optional section.
    location = [part for part in first["loc"] if isinstance(part, str) and "[" not in part]
    location = [part for i, part in enumerate(location) if i == 0 or not part.endswith("Config")]
    source = next((name for name, own in reversed(layers) if _has(own, location)), "settings")
    path = ".".join(location)
    if first["type"] == "unexpected_keyword_argument":
        valid = [".".join([*location[:-1], name]) for name in _settings(location[:-1])]
        near = difflib.get_close_matches(path, valid, n=3, cutoff=0.3) or valid
        return UserError(f"{source}: unknown setting {path!r}; did you mean: {', '.join(near)}?")
    return UserError(f"{source}: {path} is {reprlib.repr(first['input'])}: {first['msg']}")


def _has(layer: Any, location: Sequence[str]) -> bool:
    for part in location:
        if not isinstance(layer, dict) or part not in layer:
            return False
        layer = layer[part]
    return True

"""Settings: merging of layers, and errors for mistyped ones."""

import dataclasses
import itertools
import json
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest

from cwm import config
from cwm.infra.errors import UserError

ROOT = Path(__file__).parents[1] / "config"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_later_layers_win_and_mappings_merge(tmp_path):
    below = write(tmp_path / "a.yaml", "finetune: {batch: 3, length: 4}\nmodel: {context: null}")
    above = write(tmp_path / "b.yaml", "finetune: {length: 5, agent: {world: {kl: {free: 1}}}}")
    cfg = config.load([below, above], ["finetune.agent.world_optimizer.lr=3e-3"])
    assert (cfg.finetune.batch, cfg.finetune.length) == (3, 5)
    assert cfg.model.context is None
    assert cfg.finetune.agent.world.kl.free == 1.0
    assert cfg.finetune.agent.world_optimizer.lr == 0.003
    assert cfg.finetune.agent.actor_optimizer.lr == 8e-5


def test_a_task_and_a_suite_override_settings(tmp_path):
    suite = write(
        tmp_path / "suite" / "toy.yaml", "tasks: {sphere: , blob: {finetune: {batch: 7}}}"
    )
    scale = write(
        tmp_path / "scale" / "s.yaml", "finetune: {steps: 1}\nsuites: {toy: {finetune: {steps: 2}}}"
    )
    assert config.load([suite, scale], task="blob").finetune.batch == 7
    assert config.load([suite, scale], task="sphere").finetune.batch == 50
    assert config.load([suite, scale], task="sphere").finetune.steps == 2
    assert config.load([scale]).finetune.steps == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finetune: {bach: 3}", r"a.yaml: unknown setting 'finetune.bach'; .*finetune.batch"),
        ("model: {context: {maskd: 1}}", r"unknown setting 'model.context.maskd'.*masked"),
        ("pretrian: {}", r"unknown setting 'pretrian'; did you mean: pretrain"),
        ("finetune: {batch: many}", r"a.yaml: finetune.batch is 'many'"),
        ("dataset: {action_range: [1]}", r"a.yaml: dataset.action_range is \[1\]: "),
        ("model: {vision: {network: vit}}", r"model.vision.network is 'vit'.*resnet"),
        ("tasks: {reach: {env: {rendr: fast}}}", r"tasks reach: unknown setting 'env.rendr'"),
        ("- 1", r"holds a list"),
        ("a: [", r"is not YAML"),
    ],
)
def test_a_mistake_is_one_line_with_valid_values(tmp_path, text, message):
    path = write(tmp_path / "a.yaml", text)
    with pytest.raises(UserError, match=message) as error:
        config.load([path])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["!!bool maybe", "!!int ''", "!!float ''", "!!timestamp x"])
def test_a_yaml_tag_that_does_not_fit_its_value_is_an_error(tmp_path, text):
    path = write(tmp_path / "a.yaml", f"finetune: {{batch: {text}}}")
    with pytest.raises(UserError, match=r"a.yaml is not YAML: '.*' is no \w+ in .* line 1"):
        config.load([path])


@pytest.mark.parametrize("text", ["a: &a {b: *a}", "a: &a [*a]", "&a {<<: *a}"])
def test_a_mapping_that_contains_itself_is_an_error(tmp_path, text):
    with pytest.raises(UserError, match=r"a.yaml is not YAML: .* more than 100000 values"):
        config.load([write(tmp_path / "a.yaml", text)])


def test_yaml_aliases_are_bounded(tmp_path):
    lines = [f"x{i}: &x{i} {{a: *x{i - 1}, b: *x{i - 1}}}" for i in range(1, 30)]
    path = write(tmp_path / "a.yaml", "\n".join(["x0: &x0 {a: 1}", *lines]))
    with pytest.raises(UserError, match=r"a.yaml is not YAML: .* more than 100000 values"):
        config.load([path, path])


def test_an_unknown_task_or_file_is_an_error_with_similar_names(tmp_path):
    with pytest.raises(UserError, match="unknown task 'raech'; did you mean: reach"):
        config.load([ROOT / "suite" / "metaworld.yaml"], task="raech")
    with pytest.raises(UserError, match=r"did you mean: plain.yaml"):
        config.load([ROOT / "model" / "plian.yaml"])


def test_every_combination_of_shipped_files_is_valid(monkeypatch):
    parsed = cache(config.read)
    monkeypatch.setattr(config, "read", lambda path: deepcopy(parsed(path)))
    folders = [sorted((ROOT / f).glob("*.yaml")) for f in ("suite", "scale", "model", "variant")]
    for files in itertools.product(*folders):
        config.load(files)


def test_defaults_are_the_values_of_the_paper():
    cfg = config.load([ROOT / "suite" / "metaworld.yaml"], task="drawer-open")
    assert cfg.finetune.agent.world.context_augment == "none"
    assert (cfg.finetune.batch, cfg.finetune.length, cfg.finetune.prefill) == (50, 50, 5000)
    assert cfg.model.rssm.deter == 1024


def test_the_schema_names_every_section():
    sections = json.loads(config.schema())["properties"]
    names = {field.name for field in dataclasses.fields(config.Config)}
    assert sections.keys() == names | {"suites", "tasks"}


@pytest.mark.parametrize("name", ["2024_05_01", "007", "1e3", "number #32", "true", "~", "a: b"])
def test_a_path_or_text_given_by_set_is_taken_literally(name):
    assert config.load([], [f"dataset.folder={name}"]).dataset.folder == Path(name)
    assert config.load([], [f"env.textures={name}"]).env.textures == name


def test_a_text_given_by_set_may_be_quoted_or_null():
    assert config.load([], ["dataset.folder='my 007'"]).dataset.folder == Path("my 007")
    assert config.load([], ["dataset.folder=null"]).dataset.folder is None
    assert config.load([], ["dataset.annotations={train: a.json}"]).dataset.annotations == {
        "train": "a.json"
    }


def test_windows_of_one_frame_are_an_error():
    """The evaluation during pre-training could not split them into two halves."""
    with pytest.raises(UserError, match=r"pretrain\.length"):
        config.load([], ["pretrain.length=1"])
    assert config.load([], ["pretrain.length=2"]).pretrain.length == 2

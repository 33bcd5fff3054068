"""The benchmarks run at tiny sizes and write their results; no time is asserted."""

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from bench import environment, inputs, loader, parts, record, reference, update, viewer
from bench.parts import BACKWARD, Part

ROOT = Path(__file__).parents[2]
ABOUT = {"script", "date", "commit", "machine", "versions", "settings", "rows"}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Reads the one result that was written."""
    monkeypatch.setattr(record, "OUT", tmp_path / "out")

    def read():
        (path,) = (tmp_path / "out").iterdir()
        result = json.loads(path.read_text())
        assert result.keys() == ABOUT
        assert all(math.isfinite(row["value"]) for row in result["rows"])
        values = {row["name"]: row["value"] for row in result["rows"]}
        assert len(values) == len(result["rows"])
        return result, values

    return read


def test_update(saved, capsys):
    sets = [f"{s}.{x}" for s in ("pretrain", "finetune") for x in ("batch=2", "length=6")]
    words = "--scales smoke --models contextwm dreamer --updates 1 --sets"
    update.main([*words.split(), *sets])
    result, values = saved()
    assert result["settings"]["sets"] == sets
    for case in ("contextwm/pretrain", "contextwm/finetune", "dreamer/finetune"):
        case = f"smoke/{case}"
        assert values[f"{case}/work"] > 0
        assert values[f"{case}/operations"] > 100
        assert values[f"{case}/peak memory"] > 10
        named = ("encoder", "decoder", "losses", "optimisers", "batch")
        assert all(f"{case}/{part}" in values for part in named)
        assert f"{case}/encoder{BACKWARD}" in values
        of_all = {f"{case}/{name}" for name in ("whole", "fastest", "slowest", "floor")}
        rows = [row for row in result["rows"] if row["name"].startswith(case)]
        shares = [r["value"] for r in rows if r["unit"] == "ms" and r["name"] not in of_all]
        assert sum(shares) == pytest.approx(values[f"{case}/whole"], rel=1e-3)
    assert "smoke/contextwm/finetune/upper model, backward" in values
    assert "smoke/contextwm/finetune/imagination, backward" in values


def test_parts_match_hand_computed_values():
    """2 rows through 4 -> 3 -> 5 -> 7: a product of (2, 3) and (3, 5) is 60 operations."""

    class Net:
        def __init__(self):
            self.layers = [torch.nn.Linear(a, b) for a, b in ((4, 3), (3, 5), (5, 7))]

        def inner(self, x):
            return {"out": self.layers[1](x)}

        def outer(self, x):
            return (self.layers[2](self.inner(self.layers[0](x))["out"]),)

    net = Net()
    weights = [layer.weight for layer in net.layers]

    def step():
        torch.autograd.grad(net.outer(torch.ones(2, 4))[0].sum(), weights)

    named = [Part(net, "inner", "inner"), Part(net, "outer", "outer")]
    found = {part: n for part, n in parts.flops(step, named).items() if n}
    # Backward, a layer also finds the gradient of its input, but for the first one.
    assert found == {
        "outer": 48 + 140,
        "inner": 60,
        f"outer{BACKWARD}": 48 + 2 * 140,
        f"inner{BACKWARD}": 2 * 60,
    }
    assert "inner" not in vars(net)  # nothing stays wrapped
    assert sum(parts.operations(step, named).values()) >= 7


def test_flops_include_attention():
    """Two products of 2 * 3 * 4 * 5 * 6 forward; backward the kernel forms the first one again."""
    query = torch.ones(2, 3, 4, 6, requires_grad=True)
    key = torch.ones(2, 3, 5, 6, requires_grad=True)

    def attend():
        out = torch.nn.functional.scaled_dot_product_attention(query, key, key)
        torch.autograd.grad(out.sum(), [query, key])

    assert sum(parts.flops(attend, []).values()) == (2 + 5) * 2 * 2 * 3 * 4 * 5 * 6


def test_interval_belongs_to_the_part_of_its_first_mark():
    clock = iter([0, 1, 3, 6, 10, 15])
    line = parts.Timeline(lambda: next(clock))
    inner = line.wrap("inner", lambda: None)
    line.wrap("outer", inner)()
    line.mark(parts.REST)
    taken = line.shares(lambda ended, begun: ended - begun)
    assert taken == {"rest": 1 + 5, "outer": 2 + 4, "inner": 3}


def test_product_rate_and_machine():
    assert update.product_rate("cpu", "fp32", rounds=1) > 0
    assert record.machine()["cores"] >= 1


def test_viewer(saved, monkeypatch):
    monkeypatch.setattr(viewer, "REPEATS", 1)
    viewer.main()
    values = saved()[1]
    assert len(values) == 5
    assert min(values.values()) > 0


def test_environment(saved, monkeypatch, capsys):
    monkeypatch.setattr(environment, "TASKS", {"toy": ["blob"]})
    monkeypatch.setattr(environment, "TOGETHER", [])
    monkeypatch.setattr(environment, "SHARES", [("dmc", "cartpole-swingup")])
    environment.main()
    shares = {"dmc/cartpole-swingup/share of bare"}
    assert saved()[1].keys() == {"toy/blob/fast", "toy/blob/reference"} | shares


def test_loader(saved, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loader, "BATCHES", 2)
    monkeypatch.setattr(loader, "LENGTH", 4)
    inputs.clip_store(tmp_path, 2, 8)
    monkeypatch.setattr(sys, "argv", ["loader.py", str(tmp_path / "store.json")])
    loader.main()
    compressed = ("encoding, verified", "size", "compression", "windows of 4 frames")
    compressed += ("PSNR, mean of frames", "PSNR, worst frame")
    assert saved()[1].keys() == {"sample", "prefetch", *(f"H.264/{row}" for row in compressed)}


def test_stores_of_holes(monkeypatch, capsys):
    monkeypatch.setattr(loader, "BATCHES", 2)
    rows = record.Record("loader")
    with loader.sparse_store(30) as path:
        loader.compare_sizes({30: path}, rows)
    costs = ("open", "first batch", "peak memory", "cold batch", "warm batch")
    assert [row["name"] for row in rows.rows] == [f"30 clips/{cost}" for cost in costs]
    assert all(row["value"] > 0 for row in rows.rows)


def test_jpeg_clips_have_the_official_format(tmp_path):
    inputs.jpeg_clips(tmp_path / "jpeg", inputs.clip_store(tmp_path, 2, 3))
    found = {str(path.relative_to(tmp_path / "jpeg")) for path in tmp_path.rglob("*.jpg")}
    assert found == {f"{clip}/{frame:06d}.jpg" for clip in range(2) for frame in (1, 2, 3)}


def result(path, machine="one", commit="a", **rows):
    about = {"script": "update", "machine": machine, "commit": commit, "versions": {}}
    values = [{"name": name, "value": value, "unit": "ms"} for name, value in rows.items()]
    path.write_text(json.dumps(about | {"settings": {}, "rows": values}))
    return str(path)


def test_compare_matches_hand_computed_ratios(tmp_path, capsys):
    a = result(tmp_path / "a.json", whole=200.0, part=50.0, gone=1.0)
    b = result(tmp_path / "b.json", commit="b", whole=100.0, part=75.0)
    record.main([a, b])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "commit: a and b"
    assert [line.split() for line in lines[2:4]] == [
        ["whole", "200", "100", "0.50", "ms"],
        ["part", "50", "75", "1.50", "ms"],
    ]
    assert lines[4] == "rows in only one of the two: 1"


def test_compare_refuses_results_of_other_machines(tmp_path, capsys):
    files = [result(tmp_path / f"{name}.json", machine=name, whole=1.0) for name in ("one", "two")]
    with pytest.raises(SystemExit, match="machine: one and two"):
        record.main(files)
    record.main([*files, "--anyway"])
    assert "machine: one and two" in capsys.readouterr().out


def test_contenders_alternate_updates():
    calls = []

    class Remote(NamedTuple):
        name: str

        def call(self, function):
            calls.append(self.name)
            return len(calls), {"peak memory": 10 * len(calls)}

    remotes = {name: Remote(name) for name in ("official fp32", "ours bf16")}
    taken, memory = reference.race(remotes, 2, 1)
    assert calls == ["official fp32", "ours bf16"] * 3  # once to warm up
    assert taken == {"official fp32": [3, 5], "ours bf16": [4, 6]}
    assert memory == {"official fp32": {"peak memory": 50}, "ours bf16": {"peak memory": 60}}
    log = record.Record("reference")
    times = {"official fp32": [8, 6, 5], "ours bf16": [2, 2, 1]}
    reference.report("case", times, memory, log)
    rows = {row["name"]: row["value"] for row in log.rows}
    assert rows["case/official fp32/median"] == 6
    assert rows["case/ours bf16/peak memory"] == 60
    ratios = [rows[f"case/official fp32 over ours bf16/{x}"] for x in ("median", "least", "most")]
    assert ratios == [4, 3, 5]  # of 4, 3 and 5


@pytest.mark.parametrize("when", ["before", "during"])
def test_dead_contender_ends_the_comparison(monkeypatch, when):
    monkeypatch.setattr(reference, "start", die if when == "before" else print)
    remote = reference.Remote()
    with pytest.raises(SystemExit, match="a contender died"):
        remote.call(die)


def die():
    os._exit(7)


def test_contenders_share_one_gpu(tmp_path, monkeypatch):
    """The place that this process holds does not keep its own contenders waiting."""
    smi = tmp_path / "bin/nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho '0, GPU-a, 0, 81559'\necho '1, GPU-b, 9, 81559'\n")
    smi.chmod(0o755)
    code = """
import os, subprocess, sys
from pathlib import Path
from bench import reference
reference.share_gpu(Path(sys.argv[1]))
claim = "from cwm.infra import device; print(device.claim_gpu().uuid, flush=True); input()"
start = lambda: subprocess.Popen([sys.executable, "-c", claim], stdin=-1, stdout=-1, text=True)
contenders = [start() for _ in range(4)]
print(*(each.stdout.readline().strip() for each in contenders))
for each in contenders:
    each.communicate("done")
"""
    known = {"PATH": f"{smi.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    known["CWM_GPU_LOCKS"] = str(tmp_path / "all")
    run = partial(subprocess.run, env=known, capture_output=True, text=True, timeout=60)
    done = run([sys.executable, "-c", code, tmp_path / "own"])
    assert done.stdout.split() == ["GPU-a"] * 4, done.stderr


def test_numbers_of_the_official_settings():
    assert reference.numbers({"lr": "3e-4", "opt": "adam", "sizes": {"deter": 8}}) == {
        "lr": 3e-4,
        "opt": "adam",
        "sizes": {"deter": 8},
    }


@pytest.mark.skipif("REFERENCE" not in os.environ, reason="REFERENCE=DIR: the official code")
@pytest.mark.parametrize("model", ["contextwm", "plain"])
def test_the_official_code_beside_ours(model):
    words = "--batch 2 --length 6 --depth 4 --width 16 --latents 4 --units 16 --rounds 1"
    command = [sys.executable, str(ROOT / "bench/reference.py"), *words.split(), "--workers", "1"]
    command += ["--reference", os.environ["REFERENCE"], "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("official bf16 over ours bf16/median") == 3

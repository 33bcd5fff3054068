"""The kinds of input: real files of each, made once, and what a fuzzer does to them."""

import bz2
import gzip
import io
import json
import lzma
import math
import os
import pickle
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from damage import DEEP, ODD, VALUE, damaged, edited
from fuzz import Draw, Kind, call
from hypothesis import strategies as st
from PIL import Image

from cwm import config
from cwm.infra import tracking
from cwm.infra.files import sha256
from cwm.infra.run_dir import RunDir
from cwm.videos.encode import H264, VP9, encode
from cwm.videos.lists import write_list

ROOT = Path(__file__).parents[2]
LAYERS = sorted((ROOT / "config").glob("[!s]*/*.yaml")) + sorted((ROOT / "config").glob("su*/*"))
LAYERS += sorted((ROOT / "config/scale").glob("*.yaml"))
TINY = {
    "dataset": {
        "folder": "videos", "kinds": ["video", "stills", "episode"], "parts": 1, "min_frames": 4,
        "heldout": 0.4, "max_failures": 1.0, "time_limit": 20,
    },
    "pretrain": {
        "updates": 2, "batch": 2, "length": 4, "heldout_clips": 1, "log_every": 1,
        "heldout_every": 1, "checkpoint_seconds": 0,
    },
    "predict": {"clips": 1, "length": 4, "observed": 2, "shown": 1},
    "env": {"time_limit": 6},
    "finetune": {
        "steps": 18, "prefill": 6, "length": 4, "batch": 2, "eval_every": 6, "eval_episodes": 1,
        "train_every": 6, "offline_updates": 1, "log_every": 1, "checkpoint_seconds": 0,
        "agent": {"bonus": {"window": 3}},
    },
}  # fmt: skip
LAST = ["smoke.yaml", "contextwm.yaml", "tiny.yaml"]
TOY = ["finetune", "toy/sphere", "toy.yaml", *LAST]
MAKE = [
    ["collect", "x", "tiny.yaml", "--out", "list"],
    ["decode", "x", "tiny.yaml", "--videos", "list/videos.json", "--out", "clips/part-000"],
    ["clips", "x", "tiny.yaml", "--videos", "list/videos.json", "--out", "clips"],
]
DATA, DECODE, CLIPS = ["data", "clips/store.json"], *MAKE[1:]
COMPRESSED = TINY | {"dataset": TINY["dataset"] | {"codec": "h264"}}
MIX = ["clips", "x", "mix.yaml", "--store", "clips/store.json", "--out", "mixed"]
PRETRAIN = ["pretrain", "x", *LAST, "--clips", "clips/store.json", "--out", "model"]
WITH = ["--clips", "clips/store.json", "--weights", "model/weights.json"]
PREDICT = ["predict", "x", *LAST, *WITH, "--out", "prediction"]
OFFICIAL = ["convert", "official", *LAST, "--out", "taken"]
BACK = ["convert", "model/weights.json", "--out", "back"]
ONWARDS = [*TOY, "--pretrained", "model/weights.json", "--out", "agent"]
PLAY = ["play", "toy/sphere", "--policy", "agent/weights.json", "--out", "film.mp4"]
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
HOSTILE = [
    "!!python/object/apply:os.system ['touch harm']",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\ndataset: {names: *c}",
    "a: &a [*a]", "finetune: {1: 2}", "? {a: 1}\n: 2", "finetune: 2001-01-01", "\tfinetune: 1",
    "finetune: {<<: {bach: 1}}", "<<: 1", "tasks: 1", "suites: []", "tasks: {1: 2, a: [1]}",
    "tasks: {sphere: {tasks: {a: }}}", "dataset: {names: '('}", "dataset: {names: '(a+)+$'}",
    "model: {context: 1}", "--- 1\n--- 2", "%YAML 9\n---", "\ufeffmodel: {}", "a: " + DEEP,
    "env: {vary: [x]}", "dataset: {archives: [{file: a.zip, urls: [file:///etc/passwd]}]}",
    "dataset: {archives: [{file: ../a.zip}]}", "runtime: {threads: -1}", "null", "''", "[]",
]  # fmt: skip


def make(root: Path) -> dict[Kind, float]:
    """Every kind with its share of the inputs; the files that it damages lie in `root`."""
    tracking._deliver = lambda _: True  # MLflow has tests of its own
    os.environ |= {"MPLCONFIGDIR": str(root), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    import matplotlib.font_manager  # noqa: F401  which looks for fonts the first time

    here = Path.cwd()
    os.chdir(root)
    try:
        _make_files()
    finally:
        os.chdir(here)
    shares = {
        settings: 0.36, used: 0.02, videos: 0.05, archives: 0.26, stores: 0.08, weights: 0.07,
        official: 0.1, checkpoints: 0.02, tables: 0.04,
    }  # fmt: skip
    return {_in(root, kind): share for kind, share in shares.items()}


def _in(root: Path, kind: Any) -> Kind:
    def bound(draw: Draw) -> list[list[str]]:
        for path in root.glob("*.yaml"):
            shutil.copy(path, path.name)
        return kind(draw, root)

    bound.__name__ = kind.__name__
    return bound


def _make_files() -> None:
    """By the commands themselves: videos, clips, models, official files, unfinished work."""
    for folder, name in (("suite", "toy"), ("scale", "smoke"), ("model", "contextwm")):
        shutil.copy(ROOT / "config" / folder / f"{name}.yaml", ".")
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    Path("mix.yaml").write_text(yaml.safe_dump({"dataset": {"members": [{"dataset": "x"}]}}))
    frames = np.random.default_rng(0).integers(0, 255, (8, 6, 48, 64, 3), np.uint8)
    for number, (suffix, codec) in enumerate(
        (("mp4", H264), ("webm", VP9), ("mkv", H264), ("avi", {"vcodec": "mpeg4"}), ("gif", {}))
    ):
        codec = {"pix_fmt": "rgb8"} | codec if suffix == "gif" else codec
        _encode(Path(f"videos/{number}.{suffix}"), frames[number], codec)
    for number, picture in enumerate(frames[5], 1):
        Image.fromarray(picture).save(f"videos/still_{number:06}.jpg")
        Image.fromarray(picture).save(f"videos/other_{number:06}.png")
    np.savez_compressed("videos/episode.npz", image=np.zeros((6, 64, 64, 3), np.uint8))
    Path("compressed.yaml").write_text(yaml.safe_dump(COMPRESSED))
    compressed = [[word.replace("tiny", "compressed") for word in argv] for argv in MAKE]
    for argv in compressed:
        assert call(argv)[0] == 0, call(argv)
    shutil.move("clips", "compressed")
    shutil.rmtree("list")
    for argv in (*MAKE, MIX, PRETRAIN, PREDICT, ONWARDS):
        assert call(argv)[0] == 0, call(argv)
    assert call(["convert", "model/weights.json", "--out", "official"])[0] == 0
    publish, RunDir.publish = RunDir.publish, _unpublished
    for argv in (PRETRAIN, ONWARDS):
        assert call([*argv[:-2], "--out", "unfinished"])[0] == 3
    RunDir.publish = publish


def _unpublished(*_: object) -> None:
    raise SystemExit(3)


def _encode(path: Path, frames: np.ndarray, codec: dict) -> None:
    if path.suffix == ".gif":
        path.parent.mkdir(exist_ok=True)
        pictures = [Image.fromarray(frame) for frame in frames]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    else:
        encode(path, frames, 10, codec)


def _spoil(draw: Draw, path: Path) -> None:
    """Damage a file: by its structure, if it has one that we know, or by its bytes."""
    whole = path.read_bytes()
    structured = draw(st.integers(0, 2))
    if path.suffix == ".json" and structured:
        text = json.dumps(draw(edited(json.loads(whole))))
        path.write_text(DEEP if draw(st.integers(0, 29)) == 0 else text)
    elif path.suffix == ".yaml" and structured:
        path.write_text(yaml.safe_dump(draw(edited(yaml.safe_load(whole))), allow_unicode=True))
    elif path.suffix in (".jsonl", ".csv") and structured:
        lines = whole.decode().split("\n")
        row = draw(st.integers(0, min(8, len(lines) - 2)))
        if path.suffix == ".csv":
            cells = lines[row].split(",")
            cells[draw(st.integers(0, len(cells) - 1))] = str(draw(ODD | WORDS))
            lines[row] = ",".join(cells)
        else:
            text = json.dumps(draw(edited(json.loads(lines[row]))))
            lines[row] = DEEP if draw(st.integers(0, 29)) == 0 else text
        path.write_text("\n".join(lines), errors="replace")
    elif draw(st.integers(0, 14)) == 0:
        path.unlink()
        if draw(st.booleans()):
            path.mkdir()
    else:
        path.write_bytes(draw(damaged(whole)))


def _copy(root: Path, *folders: str) -> None:
    for folder in folders:
        shutil.copytree(root / folder, folder, dirs_exist_ok=True)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, below in value.items():
        if isinstance(below, dict):
            yield from _leaves(below, f"{path}{name}.")
        else:
            yield f"{path}{name}", below


SECTIONS = ("runtime", "dataset", "model", "pretrain", "predict", "represent", "env", "finetune")
EVERY = dict(_leaves(config.resolved(config.Config(), (*SECTIONS, "baselines"))))


def settings(draw: Draw, root: Path) -> list[list[str]]:
    """Layers of YAML, and --set."""
    write_list(Path("list-000.parquet"), [], {"root": ".", "part": 0, "parts": 64})
    files = []
    for number in range(draw(st.integers(1, 2))):
        layer = draw(st.sampled_from(LAYERS))
        path = Path("config") / layer.parent.name / f"{number}-{layer.name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.append(str(path))
        if draw(st.integers(0, 5)) == 0:
            path.write_text(draw(st.sampled_from(HOSTILE)))
        else:
            shutil.copy(layer, path)
            _spoil(draw, path)
    sets = []
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(sorted(EVERY)) | WORDS)
        value = draw(VALUE.map(lambda x: yaml.safe_dump(x, allow_unicode=True)) | WORDS)
        word = f"{key}={value}" if draw(st.integers(0, 9)) else draw(WORDS)
        sets += ["--set", word.replace("\0", "").encode(errors="ignore").decode()]
    return [["decode", "x", *files, "--videos", "videos.json", "--out", "out", *sets]]


NUMBERS = {
    name: value
    for name, value in EVERY.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
}
USES = {
    "pretrain": PRETRAIN,
    "model": PRETRAIN,
    "predict": PREDICT,
    "finetune": [*TOY, "--out", "agent"],
    "env": [*TOY, "--out", "agent"],
    "represent": ["represent", "x", *LAST, *WITH, "--out", "features"],
    "baselines": ["baselines", "toy/sphere", "toy.yaml", *LAST, "--out", "levels"],
}
USED = sorted(name for name in NUMBERS if name.partition(".")[0] in USES)


def used(draw: Draw, root: Path) -> list[list[str]]:
    """A number of the settings at its limits or beyond, in the command that reads it."""
    _copy(root, "clips", "model")
    name = draw(st.sampled_from(USED))
    whole = isinstance(NUMBERS[name], int)
    value = draw(st.sampled_from([-1, 0, 1, 2, 3, 5] if whole else [-1, 0, 1e-300, 0.5, 1, 2]))
    if not whole:
        value = draw(st.sampled_from([value, math.nan, math.inf]))
    word = f"{name}={yaml.safe_dump(value).splitlines()[0]}"
    return [[*USES[name.partition(".")[0]], "--set", word]]


def videos(draw: Draw, root: Path) -> list[list[str]]:
    """A video, a folder of stills or an episode, under its own name or another's."""
    source = draw(st.sampled_from(sorted((root / "videos").iterdir())))
    name = draw(st.sampled_from([source.name] * 4 + ["x.mp4", "a'b $(touch harm).webm", "-y.mkv"]))
    Path("videos").mkdir()
    if source.suffix in (".jpg", ".png"):
        for still in source.parent.glob(f"{source.name[:5]}*{source.suffix}"):
            shutil.copy(still, "videos")
        _spoil(draw, Path("videos") / source.name)
    else:
        shutil.copy(source, Path("videos") / name)
        _spoil(draw, Path("videos") / name)
    return MAKE


NAMES = st.sampled_from(
    ["../harm", "/tmp/harm", "a/../../harm", "..", "a\\..\\..\\harm", "C:harm", "a", "a/b", "a/b/c",
     "./a", "a//b", "A", "x" * 300, "y/" * 400, "new\nline", "\u202e", ".extracted.json", ""]
) | st.text("./\\ab:~", min_size=1, max_size=12)  # fmt: skip
KINDS = st.sampled_from([tarfile.REGTYPE] * 5 + [bytes([kind]) for kind in b"123456SxgLKZ"])
PRESSES = {".tar": bytes, ".tgz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}


def archives(draw: Draw, root: Path) -> list[list[str]]:
    """Zip and tar archives, whole and in parts, with members that lead elsewhere, and damage."""
    suffix = draw(st.sampled_from([".zip", *PRESSES]))
    out = io.BytesIO()
    members = [("good.webm", b"good" * 50)]
    members += [(draw(NAMES), draw(st.binary(max_size=50))) for _ in range(draw(st.integers(0, 3)))]
    if suffix == ".zip":
        warnings.simplefilter("ignore")  # of names that are there twice
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                info = zipfile.ZipInfo(name)
                info.external_attr = draw(st.sampled_from([0o100644, 0o120777, 0o10644])) << 16
                archive.writestr(info, content)
        data = out.getvalue()
    else:
        form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for number, (name, content) in enumerate(members):
                info = tarfile.TarInfo(name)
                info.type = draw(KINDS) if number else tarfile.REGTYPE
                info.linkname, info.size = draw(NAMES), len(content)
                try:
                    archive.addfile(info, io.BytesIO(content))
                except ValueError:  # a name that this format has no room for
                    continue
        data = out.getvalue()
        data = draw(damaged(data)) if draw(st.booleans()) else data
        data = PRESSES[suffix](data)
    data = draw(damaged(data)) if draw(st.booleans()) else data
    Path("data/archives").mkdir(parents=True)
    if suffix == ".zip" or draw(st.booleans()):
        Path(f"data/archives/set{suffix}").write_bytes(data)
        listed = [{"file": f"set{suffix}"}]
    else:
        half = draw(st.integers(0, len(data)))
        for number, part in enumerate((data[:half], data[half:])):
            Path(f"data/archives/set-{number}").write_bytes(part)
        listed = [{"file": f"set-{n}", "join": f"set{suffix}"} for n in range(2)]
    Path("set.yaml").write_text(yaml.safe_dump({"dataset": {"folder": "data", "archives": listed}}))
    return [["download", "x", "set.yaml"]]


def stores(draw: Draw, root: Path) -> list[list[str]]:
    """Lists of clips, journals, manifests, indices and shards."""
    _copy(root, "list", "videos", "clips", "model", "mixed")
    shards = ["npy"]
    if draw(st.booleans()):
        shards = ["h264", "packets"]
        shutil.rmtree("clips")
        shutil.copytree(root / "compressed", "clips")
        shutil.copy("compressed.yaml", "tiny.yaml")
    files = ["list/list-000.parquet", *(f"clips/{name}" for name in ("store.json", "index.npy"))]
    files += [f"clips/part-000/{name}" for name in ("part.parquet", "journal.jsonl")]
    files += [f"clips/part-000/frames-00000.{suffix}" for suffix in shards]
    files += ["clips/manifest.parquet", "mixed/store.json"]
    spoilt = Path(draw(st.sampled_from(files)))
    _spoil(draw, spoilt)
    if spoilt.name == "index.npy" and spoilt.is_file() and draw(st.booleans()):
        info = json.loads(Path("clips/store.json").read_text())
        info["sha256"]["index"] = sha256(spoilt)
        Path("clips/store.json").write_text(json.dumps(info))
    mixed = ["pretrain", "x", *LAST, "--clips", "mixed/store.json", "--out", "model"]
    read = [[DATA], [MIX], [PRETRAIN], [PREDICT], [mixed], [["data", "mixed/store.json"]]]
    read += [[["report", "clips/store.json", "mixed/store.json", "--out", "out/x/report.html"]]]
    remade = {"list-000.parquet": [MAKE[1:], [CLIPS]], "part.parquet": [[CLIPS], MAKE[1:]]}
    remade |= {"journal.jsonl": [[CLIPS], MAKE[1:]]}
    return draw(st.sampled_from(remade.get(spoilt.name, read)))


def weights(draw: Draw, root: Path) -> list[list[str]]:
    """Weights of ours, also such as vouch for themselves."""
    _copy(root, "clips", "model", "agent")
    which = draw(st.sampled_from(["model", "agent"]))
    spoilt = Path(which) / draw(st.sampled_from(["weights.safetensors"] * 3 + ["weights.json"]))
    if spoilt.suffix == ".safetensors" and draw(st.booleans()):
        content = spoilt.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.dumps(draw(edited(json.loads(content[8 : 8 + size])))).encode()
        spoilt.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    else:
        _spoil(draw, spoilt)
    if spoilt.suffix == ".safetensors" and spoilt.is_file() and draw(st.integers(0, 3)):
        about = json.loads(spoilt.with_name("weights.json").read_text())
        about["sha256"] = sha256(spoilt)
        spoilt.with_name("weights.json").write_text(json.dumps(about))
    if which == "agent":
        return [PLAY]
    return [draw(st.sampled_from([BACK, BACK, PREDICT, ONWARDS]))]


class _Payload:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


PAYLOADS = [
    _Payload(os.system, "touch harm"),
    _Payload(os.mkdir, "../harm"),
    _Payload(eval, "open('../harm', 'w')"),
    _Payload(torch.load, "x"),
    _Payload(torch.hub.load, "a/b", "c"),
    _Payload(np.load, "x"),
    _Payload(pickle.loads, b"."),
    _Payload(__import__, "antigravity"),
]
UNPICKLED = st.sampled_from(
    [*PAYLOADS, torch.zeros(2).to_sparse(), torch.zeros(1).expand(10**9), {"a": {}}, [1], 3, None]
)


def official(draw: Draw, root: Path) -> list[list[str]]:
    """The authors' files, which are pickles in zip archives."""
    _copy(root, "official")
    path = draw(st.sampled_from(sorted(Path("official").iterdir())))
    match draw(st.integers(0, 3)):
        case 0:
            state = torch.load(path)
            state[draw(st.sampled_from(sorted(state)) | st.just("more"))] = draw(UNPICKLED)
            torch.save(state, path, _use_new_zipfile_serialization=draw(st.booleans()))
        case 1:
            with zipfile.ZipFile(path) as archive:
                parts = {name: archive.read(name) for name in archive.namelist()}
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for name, part in parts.items():
                    spoilt = name.endswith(("data.pkl", "version", "byteorder"))
                    archive.writestr(name, draw(damaged(part)) if spoilt else part)
        case 2:
            path.write_bytes(pickle.dumps(draw(UNPICKLED)))
        case _:
            _spoil(draw, path)
    return [OFFICIAL]


def checkpoints(draw: Draw, root: Path) -> list[list[str]]:
    """Work in progress, which the same command goes on from."""
    _copy(root, "clips", "model", "results")
    argv = draw(st.sampled_from([PRETRAIN, ONWARDS]))
    stage = f'"stage": "{argv[0]}"'
    (work,) = [p.parent for p in Path("results").rglob("run.json") if stage in p.read_text()]
    files = sorted(path for path in work.rglob("*") if path.is_file() and path.name != "done")
    _spoil(draw, draw(st.sampled_from(files)))
    return [[*argv[:-2], "--out", "unfinished"]]


PUBLISHED = ROOT / "results/published/evidence-first"
RUNS = "runs/finetune/toy/sphere"
FIGURE = ["--study", "study.yaml", "--out", "out/f"]


def tables(draw: Draw, root: Path) -> list[list[str]]:
    """Scores, metrics, the notes beside them, studies, and the tables made of them."""
    shutil.copytree(PUBLISHED, "runs", ignore=shutil.ignore_patterns("[2-9]"))  # two seeds
    shutil.copy(PUBLISHED / "study.yaml", "study.yaml")
    shutil.copy(ROOT / "cwm/analysis/published.csv", "others.csv")
    pick = draw(st.sampled_from(["scores.csv"] * 3 + ["metrics.jsonl", "run.json", "study.yaml"]))
    found = [Path(pick)] if pick == "study.yaml" else sorted(Path("runs").rglob(pick))
    runs = [str(p) for p in sorted(Path(RUNS).rglob("scores.csv"))]
    gather = ["scores", *runs, "runs/baselines/toy/sphere", "--out", "scores.csv"]
    if pick != "scores.csv" or draw(st.booleans()):
        _spoil(draw, draw(st.sampled_from(found)))
        a, b = f"{RUNS}/contextwm", f"{RUNS}/dreamer"
        redraw = ["redraw", "runs", "--study", "study.yaml", "--out", "out"]
        curves = ["figure", "pretraining", "runs/pretrain/something/plain/0", *FIGURE]
        return [draw(st.sampled_from([gather, ["compare", a, b], curves, redraw]))]
    assert call(gather)[0] == 0
    _spoil(draw, Path("scores.csv"))
    pairs = ["scores.csv", f"{RUNS}/dreamer"]
    table = ["table", "learning_curves", "scores.csv", "--study", "study.yaml", "--out", "curves"]
    figure = ["figure", "learning_curves", "curves.csv", "scores.csv", *FIGURE]
    return draw(st.sampled_from([[["compare", *pairs]], [table], [table, figure]]))

"""The command line: every step of the study is one of these commands, and so is every rule.

cwm finetune toy/sphere config/{suite/toy,model/plain,scale/smoke}.yaml --seed 0 --out run
"""

import io
import locale
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from cwm.infra.errors import UserError, check_utf8, explain_system_error
from envs.errors import EnvError

LONGEST = 2000  # characters of an error

app = typer.Typer(
    help="ContextWM: from videos to world models to agents to figures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Configs = Annotated[
    list[Path], typer.Argument(metavar="CONFIG...", help="YAML files; later ones win")
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE")]
Out = Annotated[Path, typer.Option(help="folder of the results")]
Dataset = Annotated[str, typer.Argument(metavar="DATASET")]
Task = Annotated[str, typer.Argument(metavar="SUITE/TASK")]
Videos = Annotated[Path, typer.Option(help="videos.jsonl of the dataset")]
Clips = Annotated[Path, typer.Option(help="store.json of the clips")]
Cores = Annotated[int, typer.Option(help="processes at work", min=1)]


@app.command()
def videos(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of videos")],
    out: Out,
    scale: Annotated[str, typer.Option(help="size of everything, from config/scale")] = "laptop",
    cores: Annotated[int, typer.Option(help="videos decoded at once", min=1)] = os.cpu_count() or 1,
) -> None:
    """Pre-train a world model on a folder of one's own videos, and show what it predicts."""
    from cwm.commands.own import pretrain_on

    pretrain_on(folder, scale, out, cores)


@app.command()
def download(dataset: Dataset, configs: Configs, sets: Sets = None) -> None:
    """Get the files of a dataset and unpack them, or say how a person does."""
    from cwm.config import load
    from cwm.videos.datasets import folder_of
    from cwm.videos.fetch import fetch

    cfg = load(configs, sets or ()).dataset
    size = cfg.gigabytes and int(cfg.gigabytes * 1e9)
    fetch(cfg.archives, folder_of(dataset, cfg), " ".join(cfg.by_hand.split()), size)


@app.command()
def collect(
    dataset: Dataset, configs: Configs, out: Out, cores: Cores = 1, sets: Sets = None
) -> None:
    """List the clips of a dataset, making them first if they are a stand-in."""
    from cwm.config import load
    from cwm.videos.datasets import collect as go

    go(dataset, load(configs, sets or ()).dataset, out, cores)


@app.command()
def decode(
    dataset: Dataset,
    configs: Configs,
    videos: Videos,
    out: Out,
    part: Annotated[int, typer.Option(help="which part of the clips, from 0")] = 0,
    cores: Cores = 1,
    sets: Sets = None,
) -> None:
    """Decode one part of the clips of a dataset; what is stored already stays."""
    from cwm.config import load
    from cwm.videos.decode import decode_part

    decode_part(dataset, load(configs, sets or ()).dataset, videos, part, out, cores)


@app.command()
def clips(
    dataset: Dataset,
    configs: Configs,
    videos: Videos,
    out: Out,
    sets: Sets = None,
) -> None:
    """Gather the decoded parts to a clip store, and list what could not be decoded."""
    from cwm.config import load
    from cwm.videos.build import make_clips

    make_clips(dataset, load(configs, sets or ()).dataset, videos, out)


@app.command()
def mix(
    dataset: Dataset,
    configs: Configs,
    stores: Annotated[list[Path], typer.Option("--store", help="store.json of a member, in order")],
    out: Out,
    sets: Sets = None,
) -> None:
    """Make a clip store of others: a mixture of datasets, or a part of one."""
    from cwm.config import load
    from cwm.videos.build import mix_clips

    mix_clips(dataset, load(configs, sets or ()).dataset, stores, out)


@app.command()
def data(store: Annotated[Path, typer.Argument(help="store.json of the clips")]) -> None:
    """Say what a clip store holds, and what became of every file it was made from."""
    from cwm.analysis.data import data_page

    for name, value in data_page(store).items():
        typer.echo(f"{name:12}{value}")


@app.command()
def pretrain(dataset: Dataset, configs: Configs, clips: Clips, out: Out, sets: Sets = None) -> None:
    """Pre-train a world model on the clips of a dataset."""
    from cwm.commands.run_spec import run_spec
    from cwm.config import load
    from cwm.infra.run_dir import RunDir
    from cwm.train.pretrain import pretrain as go

    cfg = load(configs, sets or ())
    sections = ("runtime", "model", "pretrain")
    spec = run_spec("pretrain", dataset, cfg, sections, configs, {"clips": clips})
    with RunDir(spec, out, cfg.pretrain.checkpoint_seconds) as run:
        go(cfg.runtime, cfg.model, cfg.pretrain, clips, run)


@app.command()
def predict(
    dataset: Dataset,
    configs: Configs,
    clips: Clips,
    weights: Annotated[Path, typer.Option(help="weights.json of a pre-trained model")],
    out: Out,
    sets: Sets = None,
) -> None:
    """Predict held-out clips with a pre-trained world model, and measure the errors."""
    from cwm.commands.run_spec import run_spec
    from cwm.config import load
    from cwm.evaluate.predict import predict_clips
    from cwm.infra.run_dir import RunDir

    cfg = load(configs, sets or ())
    inputs = {"clips": clips, "weights": weights}
    sections = ("runtime", "model", "pretrain", "predict")
    spec = run_spec("predict", dataset, cfg, sections, configs, inputs)
    with RunDir(spec, out, cfg.pretrain.checkpoint_seconds) as run:
        predict_clips(cfg.runtime, cfg.model, cfg.pretrain, cfg.predict, clips, weights, run)


@app.command()
def represent(
    dataset: Dataset,
    configs: Configs,
    clips: Clips,
    weights: Annotated[Path, typer.Option(help="weights.json of a pre-trained model")],
    out: Out,
    sets: Sets = None,
) -> None:
    """Average a pre-trained world model's features of clips of two labels over time."""
    from cwm.commands.run_spec import run_spec
    from cwm.config import load
    from cwm.evaluate.represent import represent as go
    from cwm.infra.run_dir import RunDir

    cfg = load(configs, sets or ())
    inputs = {"clips": clips, "weights": weights}
    sections = ("runtime", "model", "pretrain", "represent")
    spec = run_spec("represent", dataset, cfg, sections, configs, inputs)
    with RunDir(spec, out, cfg.pretrain.checkpoint_seconds) as run:
        go(cfg.runtime, cfg.model, cfg.pretrain, cfg.represent, clips, weights, run)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(help="folder of official .pt files, or a weights.json of ours")
    ],
    out: Out,
    configs: Annotated[
        list[Path] | None, typer.Argument(metavar="[CONFIG...]", help="of the official model")
    ] = None,
    dataset: Annotated[str, typer.Option(help="what it was pre-trained on, for labels")] = "none",
    sets: Sets = None,
) -> None:
    """Take over the authors' weights, or write ours as their code would.

    From a folder of official files comes a run with weights.json; from a weights.json come the
    official files, which needs no settings.
    """
    from cwm.commands.convert import export_official, import_official
    from cwm.commands.run_spec import run_spec
    from cwm.config import load
    from cwm.convert import official_files
    from cwm.infra.run_dir import RunDir

    if source.suffix == ".json":
        if configs or sets:
            raise UserError(f"{source} says itself what it is: give no settings")
        export_official(source, out)
        return
    cfg = load(configs or (), sets or ())
    inputs = official_files(source)
    spec = run_spec("convert", dataset, cfg, ("model", "finetune"), configs or (), inputs)
    with RunDir(spec, out, cfg.pretrain.checkpoint_seconds) as run:
        import_official(cfg.model, cfg.pretrain.world, cfg.finetune.agent, source, run)


@app.command()
def baselines(what: Task, configs: Configs, out: Out, sets: Sets = None) -> None:
    """Score policies that learn nothing: random, constant and untrained ones."""
    from cwm.commands.run_spec import run_spec
    from cwm.config import load
    from cwm.evaluate.baselines import baselines as go
    from cwm.infra.run_dir import RunDir

    cfg = load(configs, sets or (), what.partition("/")[2])
    sections = ("runtime", "model", "env", "baselines")
    spec = run_spec("baselines", what, cfg, sections, configs, {})
    with RunDir(spec, out, cfg.finetune.checkpoint_seconds) as run:
        go(cfg.runtime, cfg.model, cfg.env, cfg.finetune.agent, cfg.baselines, run)


@app.command()
def finetune(
    what: Task,
    configs: Configs,
    out: Out,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    pretrained: Annotated[
        Path | None, typer.Option(help="weights.json of a pre-trained model; none: from scratch")
    ] = None,
    sets: Sets = None,
) -> None:
    """Learn a task by model-based reinforcement learning."""
    from cwm.commands.run_spec import run_spec
    from cwm.config import load
    from cwm.infra.run_dir import RunDir
    from cwm.train.finetune import FinetuneLoop
    from cwm.train.finetune import finetune as go

    cfg = load(configs, sets or (), what.partition("/")[2])
    sections = ("runtime", "model", "env", "finetune")
    inputs = {"pretrained": pretrained} if pretrained else {}
    spec = run_spec("finetune", what, cfg, sections, configs, inputs, seed)
    with RunDir(spec, out, cfg.finetune.checkpoint_seconds) as run:
        go(FinetuneLoop(cfg.runtime, cfg.model, cfg.env, cfg.finetune, pretrained, run))


@app.command()
def play(
    what: Task,
    out: Annotated[Path, typer.Option(help="the film, .mp4")],
    policy: Annotated[
        str, typer.Option(help="random, scripted, or the weights.json of a fine-tuned run")
    ] = "random",
    seed: Annotated[int, typer.Option(min=0, help="of the episode")] = 0,
    sets: Sets = None,
) -> None:
    """Film an episode, and print its return."""
    from cwm.commands.play import play as go

    outcome = go(what, policy, seed, out, sets or ())
    success = "" if outcome.success is None else f", success {outcome.success:g}"
    typer.echo(f"return {outcome.return_:.1f}{success}, {outcome.length} steps: {out}")


Study = Annotated[Path, typer.Option(help="the study file that describes the figure")]
Name = Annotated[str, typer.Argument(metavar="FIGURE")]


@app.command()
def scores(
    folders: Annotated[list[Path], typer.Argument(help="runs and baselines, or their scores.csv")],
    out: Out,
) -> None:
    """Gather the scores of many runs in one tidy table."""
    from cwm.analysis.runs import folder_of
    from cwm.analysis.scores import collect
    from cwm.infra import json_file

    stages = {path: json_file.read(folder_of(path) / "run.json").get("stage") for path in folders}
    runs = [path for path, stage in stages.items() if stage != "baselines"]
    collect(runs, [path for path in folders if path not in runs], out)


@app.command()
def plan(
    target: Annotated[
        str | None, typer.Argument(help="a figure, or all; none: what every scale costs")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="else that of config/config.yaml")] = None,
    cores: Annotated[int, typer.Option(help="of the machine", min=1)] = os.cpu_count() or 1,
    gpus: Annotated[int, typer.Option(help="of the machine", min=0)] = 0,
    costs: Annotated[
        Path, typer.Option(help="a table of bench/costs.py", show_default=False)
    ] = Path(__file__).with_name("costs.csv"),
) -> None:
    """Say what a figure or a study costs before it is made: hours, disk, downloads, licences."""
    from cwm.plan import plan as words

    typer.echo(words(target, scale, costs, cores, gpus))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="folder or quoted glob of runs, or CSV of cwm scores")],
    b: Annotated[str, typer.Argument(help="likewise, to compare A with")],
) -> None:
    """Compare two sets of runs: differences with confidence intervals, and missing runs."""
    from cwm.analysis.compare import compare as words

    typer.echo(words(a, b))


@app.command()
def table(
    figure: Name,
    inputs: Annotated[list[Path], typer.Argument(help="scores; of what runs cost, these")],
    study: Study,
    out: Out,
) -> None:
    """Aggregate scores, or what runs cost, to a figure's table: OUT.csv, OUT.md and OUT.tex."""
    from cwm.analysis.cost import make_cost_table
    from cwm.analysis.tables import make_table
    from cwm.study import read

    kind = read(study).figure(figure).kind
    if kind == "cost":
        make_cost_table(inputs, out)
    else:
        make_table(kind, *inputs, out)


@app.command()
def figure(
    name: Name,
    inputs: Annotated[list[Path], typer.Argument(help="its table and scores, or runs")],
    study: Study,
    out: Out,
) -> None:
    """Draw one figure: OUT.pdf, OUT.png, and OUT.json with its caption and provenance."""
    from cwm.analysis.draw import draw
    from cwm.analysis.provenance import FigureMeta
    from cwm.infra.source import git_commit
    from cwm.study import read

    spec = read(study).figure(name)
    command = f"snakemake fig_{name}"
    whence = (study.as_posix(), tuple(inputs))
    meta = FigureMeta(spec.title, command, git_commit(), spec.claim, spec.notes, *whence)
    draw(spec.kind, inputs, out, meta)


@app.command()
def redraw(
    results: Annotated[Path, typer.Argument(help="folder of a scale's results: finetune, ...")],
    study: Study,
    out: Out,
) -> None:
    """Draw a study's figures of scores, curves and features, with a page, from the runs there are.

    Which runs are missing is said in each figure. Nothing in RESULTS is written, torch not needed.
    """
    from cwm.commands.redraw import redraw as go

    go(results, study, out)


@app.command()
def report(
    inputs: Annotated[
        list[Path], typer.Argument(help="figures' .json, tables' .md, store.json, .mp4, runs")
    ],
    out: Out,
) -> None:
    """Put a study's figures, tables, data, films and runs on one page that opens offline.

    MLflow is then shown what it has not been sent yet.
    """
    from cwm.analysis.report import write_report
    from cwm.infra import tracking

    def those(pattern: str) -> list[Path]:
        return [path for path in inputs if path.match(pattern)]

    stores, runs = those("store.json"), those("weights.json")
    figures = [path for path in those("*.json") if path not in stores + runs]
    write_report(out.parent.name, figures, those("*.md"), stores, those("*.mp4"), out, runs)
    tracking.sync_all(out.parent.parent)


@app.command("tracking-init")
def tracking_init() -> None:
    """Make the tracking database, once, before anything logs to it in parallel."""
    from cwm.infra import tracking

    typer.echo(tracking.init())


@app.command()
def ui(port: int = 5000) -> None:
    """Open MLflow on this machine's own address."""
    from cwm.infra import tracking

    tracking.ui(port)


@app.command()
def doctor(
    unlock: Annotated[bool, typer.Option(help="remove a dead run's Snakemake lock")] = False,
    fix: Annotated[bool, typer.Option(help="mend what nothing can be lost by")] = False,
) -> None:
    """Say what is missing on this machine, what killed runs left, and the line that mends it."""
    from cwm import doctor

    raise typer.Exit(doctor.unlock() if unlock else doctor.doctor(fix))


@app.command()
def schema() -> None:
    """Print the JSON schema of the settings files."""
    from cwm.config import schema as text

    typer.echo(text(), nl=False)


def main() -> None:
    """Run a command; a user's mistake or a machine's limit is one line and exit status 2."""
    _use_utf8()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("OpenGL").setLevel(logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        for word in sys.argv[1:]:
            check_utf8(word)
        app()
    except (UserError, EnvError) as error:
        _fail(str(error))
    except (OSError, MemoryError, RuntimeError) as error:
        if not (said := explain_system_error(error)):
            raise
        _fail(said)


def _use_utf8() -> None:
    """Read and write UTF-8 whatever the locale is, which Python decides when it starts."""
    if locale.getencoding().lower().replace("-", "") != "utf8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):  # PYTHONIOENCODING may still ask for another encoding
        if isinstance(stream, io.TextIOWrapper):  # not one that a caller of `main` put there
            stream.reconfigure(errors="backslashreplace")


def _fail(said: str) -> NoReturn:
    print(f"cwm: {_line(said)}", file=sys.stderr)
    sys.exit(2)


def _line(text: str) -> str:
    """One line that a terminal shows as it is, whatever names and values it quotes."""
    return "".join(x if x.isprintable() else repr(x)[1:-1] for x in text)[:LONGEST]


def _stop(number: int, _: FrameType | None) -> None:
    print("cwm: stopped; the same command goes on from where it was", file=sys.stderr)
    sys.exit(128 + number)

"""The command line. Every step of a study is one of these commands, and a rule runs one command.

cwm finetune toy/sphere config/{suite/toy,model/plain,scale/smoke}.yaml --seed 0 --out run
"""

import io
import json
import locale
import logging
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

from typer import Argument, Exit, Option, Typer, echo

from cwm.infra.errors import EXTRAS, UserError, check_utf8, explain_system_error, not_installed
from envs.errors import EnvError

MAX_ERROR = 2000  # characters of an error message

app = Typer(
    help="ContextWM: pre-train world models on videos, fine-tune agents, draw figures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Configs = Annotated[
    list[Path], Argument(metavar="CONFIG...", help="YAML files of settings; later ones win")
]
Sets = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY.PATH=VALUE", help="a setting, over the files; repeatable"),
]
Out = Annotated[Path, Option(help="folder of the results")]
Dataset = Annotated[str, Argument(metavar="DATASET", help="name of a file in config/dataset")]
Task = Annotated[str, Argument(metavar="SUITE/TASK", help="a task, such as metaworld/drawer-open")]
Clips = Annotated[Path, Option(help="store.json of the clips")]
Weights = Annotated[Path, Option(help="weights.json of a pre-trained model")]
Trust = Annotated[bool, Option("--trust", help="run code that an agent's settings name")]
Cores = Annotated[int, Option(help="files processed in parallel", min=1)]


@app.command()
def videos(
    folder: Annotated[Path, Argument(metavar="DIR", help="folder of video files")],
    scale: Annotated[str, Option(help="name of a file in config/scale")] = "evidence",
    cores: Annotated[int, Option(help="CPU cores to use", min=1)] = os.cpu_count() or 1,
) -> None:
    """Pre-train ContextWM on your own videos and show its predictions.

    Runs the rules of `snakemake pretrain_videos`; results are in results/SCALE.
    """
    from cwm import doctor
    from cwm.commands.own import train_on_videos

    if status := doctor.unlock():
        raise Exit(status)
    train_on_videos(folder, scale, cores)


@app.command()
def init(folder: Annotated[Path, Argument(metavar="DIR", help="a new or empty folder")]) -> None:
    """Write a study to run and edit: Snakefile, workflow, settings, profiles and a README."""
    from cwm.commands.init import init as write_study

    write_study(folder)


@app.command()
def download(dataset: Dataset, configs: Configs, sets: Sets = None) -> None:
    """Download and unpack a dataset, or print how to get it by hand."""
    from cwm.config import load
    from cwm.videos.datasets import folder_of
    from cwm.videos.fetch import fetch

    cfg = load(configs, sets).dataset
    size = int(cfg.gigabytes * 1e9) if cfg.gigabytes else None
    fetch(cfg.archives, folder_of(dataset, cfg), " ".join(cfg.by_hand.split()), size)


@app.command()
def collect(
    dataset: Dataset,
    configs: Configs,
    out: Out,
    folder: Annotated[
        Path | None, Option(help="folder of the videos; default: dataset.folder")
    ] = None,
    cores: Cores = 1,
    sets: Sets = None,
) -> None:
    """List the clips of each part of a dataset; generate a synthetic dataset first."""
    from cwm.config import load
    from cwm.videos.collect import collect as list_clips

    cfg = load(configs, sets).dataset
    list_clips(dataset, replace(cfg, folder=folder or cfg.folder), out, cores)


@app.command()
def decode(
    dataset: Dataset,
    configs: Configs,
    videos: Annotated[Path, Option(help="videos.json of the dataset")],
    out: Out,
    part: Annotated[int, Option(help="number of the part, from 0")] = 0,
    cores: Cores = 1,
    sets: Sets = None,
) -> None:
    """Decode one part of the clips of a dataset; clips already decoded are kept."""
    from cwm.config import load
    from cwm.videos.decode import decode_part

    decode_part(dataset, load(configs, sets).dataset, videos, part, out, cores)


@app.command()
def clips(
    dataset: Dataset,
    configs: Configs,
    out: Out,
    videos: Annotated[Path | None, Option(help="videos.json of a dataset")] = None,
    decoded: Annotated[Path | None, Option(help="folder of the parts; default: --out")] = None,
    finished: Annotated[bool, Option("--finished", help="leave out parts not decoded yet")] = False,
    stores: Annotated[
        list[Path] | None, Option("--store", help="store.json of each member of a mixture")
    ] = None,
    sets: Sets = None,
) -> None:
    """Build the clip store of a dataset from its decoded parts, or of a mixture from its members.

    A dataset whose settings list `members` is a mixture. `dataset.only_parts` selects parts.
    """
    from cwm.config import load
    from cwm.videos.build import make_clips, mix_clips

    cfg = load(configs, sets).dataset
    if cfg.members:
        names = [member.dataset for member in cfg.members]
        if stores is None or len(stores) != len(names):
            raise UserError(f"dataset {dataset} needs one --store of each of: {', '.join(names)}")
        mix_clips(dataset, cfg, stores, out)
    elif videos is None:
        raise UserError(f"dataset {dataset} has no members: give --videos VIDEOS.JSON")
    else:
        make_clips(dataset, cfg, videos, out, decoded, finished)


@app.command("import")
def import_(
    source: Annotated[
        Path, Argument(help="folder of .npz or HDF5 episodes, or of LeRobot or Minari")
    ],
    out: Out,
    configs: Annotated[
        list[Path] | None, Argument(metavar="[CONFIG...]", help="YAML files of settings")
    ] = None,
    dataset: Annotated[
        str | None, Option(help="name of the dataset; default: the folder's name")
    ] = None,
    camera: Annotated[str | None, Option(help="name of the camera, if there are several")] = None,
    sets: Sets = None,
) -> None:
    """Import recorded episodes, with their actions and rewards, into a store."""
    from cwm.config import load
    from cwm.recorded.build import import_episodes

    cfg = load(configs or (), sets).dataset
    name = dataset or source.resolve().name
    import_episodes(name, replace(cfg, camera=camera or cfg.camera), source, out)


@app.command()
def data(store: Annotated[Path, Argument(help="store.json of the clips")]) -> None:
    """Print the contents of a clip store and the number of source files left out."""
    from cwm.analysis.data import data_page

    for name, value in data_page(store).items():
        echo(f"{name:12}{value}")


@app.command()
def pretrain(dataset: Dataset, configs: Configs, clips: Clips, out: Out, sets: Sets = None) -> None:
    """Pre-train a world model on the clips of a dataset.

    With pretrain.devices or pretrain.nodes above 1, it starts that many processes by torchrun.
    """
    from cwm.commands.launch import launched
    from cwm.commands.run_spec import open_run
    from cwm.train import pretrain as stage

    if launched(configs, sets):
        return
    with open_run("pretrain", dataset, configs, sets, out, {"clips": clips}) as (cfg, run):
        stage.pretrain(cfg.runtime, cfg.model, cfg.pretrain, clips, run)


@app.command()
def predict(
    dataset: Dataset, configs: Configs, clips: Clips, weights: Weights, out: Out, sets: Sets = None
) -> None:
    """Predict held-out clips with a pre-trained world model and measure the errors."""
    from cwm.commands.run_spec import open_run
    from cwm.evaluate import predict as stage

    inputs = {"clips": clips, "weights": weights}
    with open_run("predict", dataset, configs, sets, out, inputs) as (cfg, run):
        settings = cfg.runtime, cfg.model, cfg.pretrain, cfg.predict
        stage.predict_clips(*settings, clips, weights, run)


@app.command()
def represent(
    dataset: Dataset, configs: Configs, clips: Clips, weights: Weights, out: Out, sets: Sets = None
) -> None:
    """Write a pre-trained model's time-averaged features of clips with two labels."""
    from cwm.commands.run_spec import open_run
    from cwm.evaluate import represent as stage

    inputs = {"clips": clips, "weights": weights}
    with open_run("represent", dataset, configs, sets, out, inputs) as (cfg, run):
        settings = cfg.runtime, cfg.model, cfg.pretrain, cfg.represent
        stage.represent(*settings, clips, weights, run)


@app.command()
def invariance(
    dataset: Dataset, configs: Configs, clips: Clips, weights: Weights, out: Out, sets: Sets = None
) -> None:
    """Measure whether a pre-trained model's latents follow motion or appearance.

    CLIPS are shadow pairs: a clip's label is its look, and the name of its file is its motion.
    """
    from cwm.commands.run_spec import open_run
    from cwm.evaluate import invariance as stage

    inputs = {"clips": clips, "weights": weights}
    with open_run("invariance", dataset, configs, sets, out, inputs) as (cfg, run):
        settings = cfg.runtime, cfg.model, cfg.pretrain, cfg.invariance
        stage.invariance(*settings, clips, weights, run)


@app.command()
def convert(
    source: Annotated[Path, Argument(help="folder of official .pt files, or a weights.json")],
    out: Out,
    configs: Annotated[
        list[Path] | None,
        Argument(metavar="[CONFIG...]", help="YAML files of settings"),
    ] = None,
    dataset: Annotated[str, Option(help="name of the pre-training dataset")] = "none",
    sets: Sets = None,
) -> None:
    """Convert the authors' weights to this project's format, or back.

    A folder of official files becomes a run with a weights.json. A weights.json becomes official
    files; it needs no settings.
    """
    from cwm.commands.run_spec import open_run
    from cwm.convert import export_official, import_official, official_files

    if source.suffix == ".json":
        if configs or sets:
            raise UserError(f"{source} holds its own settings: give no CONFIG and no --set")
        export_official(source, out)
        return
    inputs = official_files(source)
    with open_run("convert", dataset, configs or (), sets, out, inputs) as (cfg, run):
        import_official(cfg.model, cfg.pretrain.world, cfg.finetune.agent, source, run)


@app.command()
def baselines(what: Task, configs: Configs, out: Out, sets: Sets = None) -> None:
    """Score policies that do not learn: random, constant and untrained ones."""
    from cwm.commands.run_spec import open_run
    from cwm.evaluate import baselines as stage

    with open_run("baselines", what, configs, sets, out, {}) as (cfg, run):
        settings = cfg.runtime, cfg.model, cfg.env, cfg.finetune.agent, cfg.baselines
        stage.baselines(*settings, run)


@app.command()
def finetune(
    what: Task,
    configs: Configs,
    out: Out,
    seed: Annotated[int, Option(help="random seed of the run", min=0)] = 0,
    pretrained: Annotated[Path | None, Option(help="weights.json of a pre-trained model")] = None,
    recorded: Annotated[
        Path | None, Option(help="store.json of episodes to begin with; see `cwm import`")
    ] = None,
    sets: Sets = None,
) -> None:
    """Learn a task by model-based reinforcement learning, from scratch or a pre-trained model."""
    from cwm.commands.run_spec import open_run
    from cwm.train import finetune as stage

    given = {"pretrained": pretrained, "recorded": recorded}
    inputs = {name: path for name, path in given.items() if path}
    with open_run("finetune", what, configs, sets, out, inputs, seed) as (cfg, run):
        settings = cfg.runtime, cfg.model, cfg.env, cfg.finetune
        stage.finetune(stage.FinetuneLoop(*settings, pretrained, run, recorded))


@app.command()
def adapt(
    dataset: Annotated[str, Argument(metavar="DATASET", help="name of the recorded episodes")],
    configs: Configs,
    recorded: Annotated[Path, Option(help="store.json of the episodes; see `cwm import`")],
    out: Out,
    seed: Annotated[int, Option(help="random seed of the run", min=0)] = 0,
    pretrained: Annotated[Path | None, Option(help="weights.json of a pre-trained model")] = None,
    sets: Sets = None,
) -> None:
    """Train a world model with actions on recorded episodes, without an environment."""
    from cwm.commands.run_spec import open_run
    from cwm.train import adapt as stage

    inputs = {"recorded": recorded} | ({"pretrained": pretrained} if pretrained else {})
    with open_run("adapt", dataset, configs, sets, out, inputs, seed) as (cfg, run):
        settings = cfg.runtime, cfg.model, cfg.finetune.agent, cfg.adapt
        stage.adapt(*settings, recorded, pretrained, run)


@app.command()
def evaluate(
    what: Annotated[str, Argument(help="suite/task, or the folder of a fine-tuning run")],
    policy: Annotated[
        str | None, Option(help="random, scripted or a weights.json; default: the run's agent")
    ] = None,
    episodes: Annotated[int, Option(help="number of episodes", min=1)] = 10,
    seed: Annotated[int, Option(help="random seed of the evaluation", min=0)] = 0,
    video: Annotated[Path | None, Option(help="film of the first episode, .mp4")] = None,
    out: Annotated[Path | None, Option(help="table with a row for each episode, .csv")] = None,
    trust: Trust = False,
    sets: Sets = None,
) -> None:
    """Run episodes of an agent, a scripted or a random policy; print return and success."""
    from cwm.commands.episodes import run_episodes, summary, write_episodes

    found = run_episodes(what, policy, episodes, seed, video, sets or (), trust)
    if out is not None:
        write_episodes(out, found)
    echo(f"{len(found)} episode{'s'[: len(found) > 1]}: {', '.join(summary(found))}")


@app.command("check-env")
def check_env(
    name: Annotated[
        str,
        Argument(help="MODULE:FACTORY or a Gymnasium id; with env.make in CONFIG, SUITE/TASK"),
    ],
    configs: Annotated[
        list[Path] | None, Argument(metavar="[CONFIG...]", help="YAML files of settings")
    ] = None,
    picture: Annotated[Path, Option(help="picture of what the agent sees, .png")] = Path(
        "check-env.png"
    ),
    sets: Sets = None,
) -> None:
    """Check within a minute whether an environment of your own works; exit status 1 if not."""
    from cwm.commands.check_env import check_env as check

    facts, problems = check(name, configs or (), sets, picture)
    for what, fact in facts.items():
        echo(f"{what:10}{fact}")
    for problem in problems:
        echo(f"problem   {problem}")
    raise Exit(int(bool(problems)))


@app.command()
def push(
    folder: Annotated[Path, Argument(help="folder of a run with weights")],
    name: Annotated[str, Argument(metavar="OWNER/NAME", help="name of the model on the Hub")],
    private: Annotated[bool, Option(help="visible only to you")] = True,
) -> None:
    """Upload a trained model to the Hugging Face Hub; needs a token (HF_TOKEN)."""
    from cwm import hub

    echo(hub.push(folder, name, private))


@app.command()
def pull(
    name: Annotated[str, Argument(metavar="OWNER/NAME", help="name of a model on the Hub")],
    out: Annotated[Path | None, Option(help="folder of the copy; default: the Hub's cache")] = None,
    revision: Annotated[str | None, Option(help="branch, tag or commit")] = None,
) -> None:
    """Download a trained model from the Hugging Face Hub and print its folder."""
    from cwm import hub

    echo(hub.pull(name, revision, out))


@app.command()
def dream(
    models: Annotated[
        list[str] | None,
        Argument(
            metavar="[MODEL...]",
            help="folders of runs, or their weights.json; default: the published models",
        ),
    ] = None,
    clips: Annotated[
        Path | None, Option(help="store.json of the clips; default: synthetic clips")
    ] = None,
    port: Annotated[
        int, Option(help="TCP port on 127.0.0.1; 0: any free one", min=0, max=65535)
    ] = 8765,
    browser: Annotated[bool, Option(help="open a browser")] = True,
    trust: Trust = False,
) -> None:
    """Open a local page to predict clips, change the context frame and act inside a model."""
    from cwm.commands.dream import dream as open_viewer

    open_viewer(models or [], clips, port, browser, trust)


Study = Annotated[Path, Option(help="file of config/study")]
Stem = Annotated[Path, Option("--out", help="path of the outputs, without a suffix")]
Name = Annotated[str, Argument(metavar="FIGURE", help="name of a figure of the study")]


@app.command()
def scores(
    folders: Annotated[list[Path], Argument(help="folders of runs, or their scores.csv")],
    out: Annotated[Path, Option(help="the table, .csv")],
) -> None:
    """Collect the scores of many runs in one table, with a row per episode."""
    from cwm.analysis.runs import folder_of
    from cwm.analysis.scores import collect
    from cwm.infra.run_json import read_run

    stages = {path: read_run(folder_of(path)).get("stage") for path in folders}
    runs = [path for path, stage in stages.items() if stage != "baselines"]
    collect(runs, [path for path in folders if path not in runs], out)


@app.command()
def plan(
    target: Annotated[
        str | None,
        Argument(help="a figure, or all; default: a line per scale"),
    ] = None,
    scale: Annotated[
        str | None, Option(help="file of config/scale; default: that of config/config.yaml")
    ] = None,
    cores: Annotated[int, Option(help="CPU cores available", min=1)] = os.cpu_count() or 1,
    gpus: Annotated[int, Option(help="GPUs available", min=0)] = 0,
    costs: Annotated[
        Path, Option(help="table written by bench/costs.py", show_default=False)
    ] = Path(__file__).with_name("costs.csv"),
) -> None:
    """Estimate the cost of a figure or a study: hours, disk space, downloads and licences."""
    from cwm.plan import plan as estimate

    echo(estimate(target, scale, costs, cores, gpus))


@app.command()
def compare(
    a: Annotated[str, Argument(help="folder or quoted glob of runs, or CSV of cwm scores")],
    b: Annotated[str, Argument(help="likewise, the runs to compare with")],
) -> None:
    """Compare two sets of runs: differences with confidence intervals, and missing runs."""
    from cwm.analysis.compare import compare as compare_runs

    echo(compare_runs(a, b))


@app.command()
def table(
    figure: Name,
    inputs: Annotated[list[Path], Argument(help="one scores.csv, or run folders for costs")],
    study: Study,
    out: Stem,
) -> None:
    """Write the table of a figure, of scores or of costs: OUT.csv, OUT.md and OUT.tex."""
    from cwm.analysis.cost import make_cost_table
    from cwm.analysis.draw import tabulate
    from cwm.study_file import read

    spec = read(study).figure(figure)
    if spec.kind == "cost":
        make_cost_table(inputs, out)
    elif len(inputs) == 1:
        tabulate(spec, inputs[0], out)
    else:
        raise UserError(f"table {figure} needs one file of scores, not {len(inputs)}")


@app.command()
def figure(
    name: Name,
    inputs: Annotated[list[Path], Argument(help="table and scores, or files of runs")],
    study: Study,
    out: Stem,
) -> None:
    """Draw one figure: OUT.pdf, OUT.png and OUT.json (caption and provenance)."""
    from cwm.analysis.draw import draw
    from cwm.analysis.provenance import FigureMeta
    from cwm.infra.source import git_commit
    from cwm.study_file import read

    spec = read(study).figure(name)
    meta = FigureMeta(
        spec.title,
        f"snakemake fig_{name}",
        git_commit(),
        spec.claim,
        spec.notes,
        spec.too_short,
        config=study.as_posix(),
        data=tuple(inputs),
    )
    draw(spec.kind, inputs, out, meta)


@app.command()
def redraw(
    results: Annotated[Path, Argument(help="results of one scale, such as results/laptop")],
    study: Study,
    out: Out,
) -> None:
    """Draw the figures of a study from the finished runs in RESULTS, and a report page.

    Captions list missing runs. Figures that show frames or times are skipped. Writes nothing in
    RESULTS and does not need PyTorch.
    """
    from cwm.commands.redraw import redraw as draw_study

    draw_study(results, study, out)


@app.command()
def publish(
    results: Annotated[Path, Argument(help="results of one scale, such as results/evidence")],
    study: Study,
    out: Annotated[Path, Option(help="a new folder, such as results/published/evidence")],
    models: Annotated[
        list[Path] | None, Option("--model", help="folder of a run whose weights are copied too")
    ] = None,
) -> None:
    """Copy what the figures of a study read, and the weights of a few runs, to a new folder.

    Figures of kind `cost`, and those that show frames, are left out, as of `cwm redraw`.
    """
    from cwm.commands.publish import publish as copy_results

    copy_results(results, study, out, models or [])


@app.command()
def report(
    inputs: Annotated[list[Path], Argument(help="figures, tables, stores, videos and weights")],
    out: Annotated[Path, Option(help="the page, .html, in results/SCALE")],
) -> None:
    """Write one self-contained HTML page of a study's figures, tables, data, videos and runs.

    Also sends MLflow the results that it does not have yet.
    """
    from cwm.analysis.report import write_report
    from cwm.infra import tracking

    def matching(pattern: str) -> list[Path]:
        return [path for path in inputs if path.match(pattern)]

    stores, runs = matching("store.json"), matching("weights.json")
    figures = [path for path in matching("*.json") if path not in stores + runs]
    write_report(out.parent.name, figures, matching("*.md"), stores, matching("*.mp4"), out, runs)
    tracking.sync_all(out.parent.parent)


@app.command("tracking-init", hidden=True)
def tracking_init() -> None:
    """Create the MLflow database before parallel jobs log to it."""
    from cwm.infra import tracking

    echo(tracking.init())


@app.command()
def ui(port: Annotated[int, Option(help="TCP port on 127.0.0.1")] = 5000) -> None:
    """Serve the MLflow web page on this machine."""
    from cwm.infra import tracking

    tracking.ui(port)


@app.command()
def tensorboard(
    runs: Annotated[
        list[Path] | None,
        Argument(metavar="[RUN...]", help="run folders, or folders of runs; default: results"),
    ] = None,
    out: Annotated[Path, Option(help="folder of the event files")] = Path("results/tensorboard"),
) -> None:
    """Write the metrics of runs as event files for TensorBoard, or update these files."""
    from cwm.infra.event_file import write_event_files

    count = write_event_files(runs or [Path("results")], out)
    echo(f"{count} run{'s'[: count > 1]}; show them by: tensorboard --logdir {out}")


@app.command()
def doctor(
    unlock: Annotated[bool, Option(help="remove the Snakemake lock of a killed run")] = False,
    fix: Annotated[bool, Option(help="apply remedies that cannot lose data")] = False,
) -> None:
    """Check this machine and folder, and print a remedy for each problem."""
    from cwm import doctor

    raise Exit(doctor.unlock() if unlock else doctor.doctor(fix))


@app.command()
def schema() -> None:
    """Print the JSON schema of the settings files."""
    from cwm.config import schema as text

    echo(text())


def main() -> None:
    """Run a command; report user errors and system limits in one line with exit status 2."""
    _use_utf8()
    if os.name != "posix":  # file locks
        _fail("Linux or macOS is needed; on Windows use its Subsystem for Linux (WSL)")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("OpenGL").setLevel(logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        for word in sys.argv[1:]:
            check_utf8(word)
        app()
    except UserError as error:
        _fail(str(error), error.status)
    except EnvError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        _fail(not_installed(error.name))
    except (OSError, MemoryError, RuntimeError) as error:
        if not (message := explain_system_error(error)):
            raise
        _fail(message)


def _use_utf8() -> None:
    """Restart Python in UTF-8 mode if the locale has another encoding; it is fixed at start."""
    if locale.getencoding().lower().replace("-", "") != "utf8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):  # PYTHONIOENCODING may name another encoding
        if isinstance(stream, io.TextIOWrapper):  # not a replacement by a caller of `main`
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, status: int = UserError.status) -> NoReturn:
    """Print an error; characters that a terminal cannot show are escaped.

    A process that torchrun started leaves it to `cwm.commands.launch`, which prints only the first.
    """
    line = "".join(x if x.isprintable() else repr(x)[1:-1] for x in message)[:MAX_ERROR]
    if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's; it would interrupt this exit
        content = {"message": line, "timestamp": int(time.time())}
        Path(report).write_text(json.dumps(content))
    else:
        print(f"cwm: {line}", file=sys.stderr)
    sys.exit(status)


def _stop(number: int, _: FrameType | None) -> None:
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        print("cwm: stopped; the same command resumes", file=sys.stderr)
    sys.exit(128 + number)

"""Build the Dockerfile and run what came out, with no engine and no registry: `make image-test`.

As root: debootstrap makes a Debian that stands in for the CUDA base, once and outside the
repository; buildah builds on it and runs the image in a chroot. Where pip finds packages on this
machine, it finds them in the build. What is made lies in one temporary folder, and goes with it.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cwm-image-base"
BASE, IMAGE = "localhost/stand-in", "localhost/contextwm"
REPORT = "smoke/report.html"
LACK = "git make pip uv"  # what a run has no use for
COMPILED = "import torch; print(torch.compile(lambda x: 2 * x.sin() + 1)(torch.zeros(9)).sum())"
STUDY = ["snakemake", "--cores", "2", "--config", "scale=smoke", "--", "all"]

# In the image: every library once, in its locked version.
LIBRARIES = """
import re
from importlib.metadata import distributions
lock = set(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", open("requirements.lock").read(), re.M))
here = [(re.sub("[-_.]+", "-", d.name).lower(), d.version) for d in distributions()]
assert len(here) == len({name for name, _ in here}), sorted(here)
apart = {name for name, _ in set(here) - lock}
assert apart == {"contextwm", "torch"}, apart
print(len(here), "distributions, each once and as locked, beside torch and cwm")
"""


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.call = ["buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        overlay = [*self.call, "--storage-driver", "overlay", "from", "scratch"]
        works = subprocess.run(overlay, capture_output=True).returncode == 0
        self.call += ["--storage-driver", "overlay" if works else "vfs"]

    def __call__(self, *words: object) -> str:
        """Run it; what it printed, or the end of the test."""
        done = subprocess.run([*self.call, *map(str, words)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stdout[-4000:]}{done.stderr[-4000:]}\nbuildah {words[0]} failed")
        return done.stdout

    def remove(self) -> None:
        """Everything in the storage, which mounts may keep from being deleted as files."""
        self("rm", "--all")
        self("rmi", "--all", "--force")


def check(good: bool, what: str) -> None:
    """End the test unless it is so."""
    if not good:
        sys.exit(f"image-test: {what}")


def needs() -> None:
    """Root and two programs, or the line that brings them."""
    missing = [name for name in ("buildah", "debootstrap") if not shutil.which(name)]
    line = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    check(not missing, f"programs are missing. As root: {line}")
    check(os.geteuid() == 0, "chroots need root")


def base(buildah: Buildah) -> None:
    """A minimal Debian as a local image."""
    root = CACHE / "bookworm"
    if not root.exists():
        new = Path(tempfile.mkdtemp(dir=CACHE))
        command = ["debootstrap", "--variant=minbase", "bookworm", str(new)]
        made = subprocess.run(command, capture_output=True, text=True)
        check(made.returncode == 0, made.stdout[-2000:])
        new.chmod(0o755)
        new.rename(root)
    container = buildah("from", "scratch").strip()
    buildah("add", "--quiet", container, root, "/")
    buildah("commit", "--quiet", "--rm", container, BASE)


def settings_of_pip(folder: Path) -> list[str]:
    """This machine's pip settings, the local folders in them and its certificates, as mounts."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pairs = sorted((line.split("=", 1) for line in listed.splitlines()), reverse=True)  # :env: last
    settings = {key.rpartition(".")[2]: ast.literal_eval(value) for key, value in pairs}
    # The local certificates become part of the system's, so pip needs no others.
    settings["cert"] = "/etc/ssl/certs/ca-certificates.crt"
    conf = folder / "pip.conf"
    conf.write_text("".join(["[global]\n", *(f"{k} = {v}\n" for k, v in settings.items())]))
    mounts = {"/etc/pip.conf": conf}
    words = " ".join(v for k, v in settings.items() if k != "cert").split()
    # A local index lies beside the files that it lists.
    indexes = [word.removeprefix("file://") for word in words if word.startswith("file://")]
    paths = [*map(Path, words), *(Path(index).parent for index in indexes)]
    paths.append(Path("/usr/local/share/ca-certificates"))
    mounts |= {str(path): path for path in paths if path.is_absolute() and path.exists()}
    return [f"--volume={source}:{target}:ro" for target, source in mounts.items()]


def build(buildah: Buildah, folder: Path) -> str:
    """The image; the commit it says it was made of."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    arguments = [f"--build-arg=BASE_IMAGE={BASE}", f"--build-arg=COMMIT={commit}"]
    how = ["--isolation=chroot", "--network=host", "--format=docker", f"--tag={IMAGE}"]
    buildah("bud", *how, *arguments, *settings_of_pip(folder), ROOT)
    return commit


class Container:
    """The image with folders of its own for what is kept, as `docker run -v` would give it."""

    def __init__(self, buildah: Buildah, folder: Path, user: str) -> None:
        self.buildah, self.user = buildah, user
        self.name = buildah("from", IMAGE).strip()
        self.folder = folder / user
        self.volumes = []
        for name in ("results", "data", ".snakemake"):
            (self.folder / name).mkdir(parents=True)
            os.chown(self.folder / name, int(user), int(user))
            self.volumes.append(f"--volume={self.folder / name}:/contextwm/{name}")

    def __call__(self, *words: str) -> str:
        """Run a command of the image; what it printed, Snakemake's messages too."""
        how = ["--isolation=chroot", f"--user={self.user}:{self.user}", *self.volumes]
        both = ["sh", "-c", 'exec "$@" 2>&1', "sh"]
        return self.buildah("run", *how, self.name, "--", *both, *words)


def main() -> None:
    needs()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # others than root have to reach the volumes
        buildah = Buildah(folder)
        try:
            test(buildah, folder)
        finally:
            buildah.remove()


def test(buildah: Buildah, folder: Path) -> None:
    """The facts about the image, one after another."""
    clock = time.monotonic()

    def passed(what: str) -> None:
        nonlocal clock
        print(f"{time.monotonic() - clock:6.0f} s  {what}", flush=True)
        clock = time.monotonic()

    base(buildah)
    passed(f"a base to stand in for CUDA's ({CACHE / 'bookworm'})")

    commit = build(buildah, folder)
    image = json.loads(buildah("inspect", "--type", "image", IMAGE))
    config, layers = image["Docker"]["config"], json.loads(image["Manifest"])["layers"]
    passed(f"built: {sum(layer['size'] for layer in layers) / 1e9:.2f} GB")

    labels = config["Labels"]
    check(labels["org.opencontainers.image.revision"] == commit, f"labels: {labels}")
    own = Container(buildah, folder, config["User"])
    found = own("bash", "-c", f"type -P {LACK} || true")
    check(not found, f"of no use to a run:\n{found}")
    passed(own("python", "-c", LIBRARIES).strip())

    for opengl in ("osmesa", "egl"):
        check(f"{opengl} renders" in own("env", f"MUJOCO_GL={opengl}", "cwm", "doctor"), opengl)
    passed("cwm doctor, with OSMesa and with EGL")
    for device in ("cpu", "cuda"):
        own("python", "-c", f"from cwm.train.compiled import require_compiler as r; r({device!r})")
    check("9." in own("python", "-c", COMPILED), "torch.compile")
    passed("torch.compile")
    own(*config["Healthcheck"]["Test"][1:])
    passed("the health check")

    own(*STUDY)
    report = own.folder / "results" / REPORT
    check(report.stat().st_uid == int(config["User"]), "the report belongs to another user")
    about = next(report.parent.glob("finetune/**/run.json"))
    check(json.loads(about.read_text())["commit"] == commit, "run.json names another commit")
    passed(f"{' '.join(STUDY)}: a report of {report.stat().st_size / 1e6:.1f} MB, its user's own")
    check("Nothing to be done" in own(*STUDY), "the second time, the study ran again")
    passed("the same again, which had nothing to do")

    other = Container(buildah, folder, "54321")
    other("cwm", "doctor")
    other(*STUDY[:-1], "results/smoke/baselines/toy/sphere/scores.csv", "results/mlflow/ready")
    passed("two rules as a user whom the image does not know")


if __name__ == "__main__":
    main()

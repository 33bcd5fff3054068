"""A new study: the files that Snakemake reads, in a folder of its own."""

from pathlib import Path

from cwm.infra.errors import UserError
from cwm.infra.source import STUDY, copy_study

README = """# A study with ContextWM

    snakemake --cores 2 --config scale=smoke -- all   # every kind of job once, in minutes
    snakemake --cores 8 all                           # the study of config/config.yaml
    snakemake -n all                                  # what would run, and why
    cwm plan all                                      # hours, disk, downloads
    cwm videos DIR                                    # pre-train on your own videos
    cwm doctor                                        # check this machine and folder

Settings are in `config/` (see `config/README.md`), the rules in `workflow/`, how jobs are run in
`profiles/`. Results appear in `results/`. The same command resumes an interrupted study.
`all` needs `pip install 'contextwm[sim,workflow]'`.
"""


def init(folder: Path) -> None:
    """Write the files of STUDY and a README into `folder`; UserError if it has one of them."""
    for name in (*STUDY, "README.md"):
        if (folder / name).exists():
            raise UserError(f"{folder / name} exists; choose a new or empty folder")
    copy_study(folder)
    (folder / "README.md").write_text(README)

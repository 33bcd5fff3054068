"""From videos to world models to agents to figures."""

import os
from getpass import getuser
from importlib.util import find_spec
from pathlib import Path


configfile: "config/config.yaml"


container: "contextwm.sif"


report: "workflow/report/workflow.rst"


# Snakemake logs the user's name, which a container's user may not have.
try:
    getuser()
except (KeyError, OSError):
    os.environ.update(USER=str(os.getuid()))

# A job is what its command is: a log that finds no room spoils no run that has ended well.
shell.suffix('|| exit "${{PIPESTATUS[0]}}"')


include: "workflow/rules/published.smk"


# Without torch, which all settings need, there are only the published figures.
if find_spec("torch"):

    include: "workflow/rules/common.smk"
    include: "workflow/rules/videos.smk"
    include: "workflow/rules/pretrain.smk"
    include: "workflow/rules/finetune.smk"
    include: "workflow/rules/figures.smk"

    # On a cluster these run where Snakemake does: they take seconds, a place in the queue minutes; and
    # only there may be a way to the internet.
    localrules:
        all,
        download,
        tracking,
        scores,
        table,
        figure,
        report,

    rule all:
        """The study of the configured scale, to its report."""
        default_target: True
        input:
            REPORT,

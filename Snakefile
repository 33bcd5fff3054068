"""From videos to world models to agents to figures."""

import os
from getpass import getuser
from importlib.util import find_spec
from pathlib import Path


configfile: "config/config.yaml"


container: "contextwm.sif"


report: "workflow/report/workflow.rst"


# Snakemake logs the user's name; the user of a container may have none.
try:
    getuser()
except (KeyError, OSError):
    os.environ.update(USER=str(os.getuid()))

# Use the exit status of the command, not of `tee`: a full log disk must not fail a finished job.
shell.suffix('|| exit "${{PIPESTATUS[0]}}"')


include: "workflow/rules/published.smk"


# Settings need torch. Without it, only the published figures can be drawn.
if find_spec("torch"):

    include: "workflow/rules/common.smk"
    include: "workflow/rules/videos.smk"
    include: "workflow/rules/pretrain.smk"
    include: "workflow/rules/finetune.smk"
    include: "workflow/rules/figures.smk"

    # On a cluster these run on Snakemake's own machine: they take seconds, and it may be the only
    # one with access to the internet.
    localrules:
        all,
        download,
        tracking,
        scores,
        table,
        figure,
        report,
        fig_videos,
        pretrain_videos,

    rule all:
        """Everything up to the report of the configured scale."""
        default_target: True
        input:
            REPORT,

"""Every command and parameter is described by `--help`, and shells complete their names."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from cwm.cli import app

COMMANDS = get_command(app).commands
CWM = Path(sys.executable).with_name("cwm")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_has_help(name):
    command = COMMANDS[name]
    assert command.help.strip().splitlines()[0].endswith(".")
    for parameter in command.params:
        assert parameter.help, parameter.name
        assert not parameter.help.endswith("."), parameter.help


# bash calls the function with the words typed, and completes file names if it finds nothing.
COMPLETE = """
source <(_CWM_COMPLETE=source_bash "$0")
COMP_WORDS=("$0" "${@:1}")
COMP_CWORD=$#
_cwm_completion "$0"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["pre"], {"pretrain", "predict"}),
        (["plan", "--c"], {"--cores", "--costs"}),
        (["finetune", "toy/sphere", "config/sui"], {""}),
    ],
)
def test_bash_completes_commands_and_options(typed, completed):
    command = ["bash", "-c", COMPLETE, CWM, *typed]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.rstrip("\n").split("\n")) == completed

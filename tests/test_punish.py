"""Five kills; `make punish` is the long form."""

import subprocess
import sys
from pathlib import Path


def test_killed_runs_end_with_the_same_bits():
    script = Path(__file__).with_name("punish.py")
    words = ["--kills", "5", "--seed", "0", "--stages", "pretrain", "toy"]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("5 kills; all results are the same as without kills\n")

"""Which code this is."""

import os
import subprocess
from pathlib import Path


def commit() -> str:
    """The code's git commit; of an image, which has no .git, CWM_COMMIT; or `unknown`."""
    if said := os.environ.get("CWM_COMMIT"):
        return said
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

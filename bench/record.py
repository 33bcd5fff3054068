"""Benchmark results as JSON: measured rows, the machine and the commit.

A row is a name, a value and a unit. `bench/ratio.py` compares two files.
"""

import json
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cwm.infra.device import processor_name
from cwm.infra.source import git_commit

OUT = Path(__file__).parent / "out"


class Record:
    """The rows that one run of a benchmark measured."""

    def __init__(self, script: str, **settings: Any) -> None:
        self.script = script
        self.settings = settings
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, value: float, unit: str) -> None:
        self.rows.append({"name": name, "value": float(f"{value:.6g}"), "unit": unit})

    def save(self) -> Path:
        date, code = datetime.now(UTC), git_commit()
        about = {"script": self.script, "date": date.isoformat(timespec="seconds"), "commit": code}
        about |= {"machine": machine(), "versions": versions(), "settings": self.settings}
        OUT.mkdir(parents=True, exist_ok=True)
        path = OUT / f"{self.script}-{date:%Y%m%dT%H%M%S}-{code[:7]}.json"
        path.write_text(json.dumps(about | {"rows": self.rows}, indent=1) + "\n")
        print(f"-> {path}\n")
        return path


def peak_memory() -> float:
    """Peak resident memory of this process in MB (`ru_maxrss` would include the parent's)."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 1024


def machine() -> dict[str, Any]:
    """The hardware that determines speed; only results of equal machines are comparable."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    about = {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
    }
    cuda = torch.cuda.is_available()
    return about | {"gpu": torch.cuda.get_device_name() if cuda else None}


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__}

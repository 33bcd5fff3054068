"""Benchmark results as JSON: measured rows, the machine and the commit.

    python bench/record.py A.json B.json [--anyway]     # ratios of two results, row by row

Results of different machines are refused unless `--anyway` is given.
"""

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from cwm.infra.device import processor_name
from cwm.infra.source import git_commit

OUT = Path(__file__).parent / "out"
MUST_AGREE = ("script", "machine")  # otherwise ratios mean nothing
MAY_DIFFER = ("commit", "versions", "settings")  # differences are printed
T = TypeVar("T")


class Record:
    """The rows that one run of a benchmark measured: a name, a value and a unit each."""

    def __init__(self, script: str, **settings: Any) -> None:
        self.script = script
        self.settings = settings
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, value: float, unit: str) -> None:
        """Keep and print a row."""
        print(f"{name:60}{value:14,.5g} {unit}", flush=True)
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


def in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """The function's result from a new process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory() -> float:
    """Peak resident memory of this process in MB (`ru_maxrss` would include the parent's)."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 1024


def machine() -> dict[str, Any]:
    """The hardware that determines speed; only results of equal machines are comparable."""
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__}


def differences(a: dict[str, Any], b: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    return [f"{key}: {a[key]} and {b[key]}" for key in keys if a[key] != b[key]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Ratios of two results of one benchmark.")
    parser.add_argument("files", type=Path, nargs=2, metavar=("A", "B"))
    parser.add_argument("--anyway", action="store_true", help="also compare different machines")
    options = parser.parse_args(arguments)
    a, b = (json.loads(path.read_text()) for path in options.files)
    wrong = differences(a, b, MUST_AGREE)
    if wrong and not options.anyway:
        sys.exit("\n".join([*wrong, "not comparable; --anyway compares them nevertheless"]))
    print(*wrong, *differences(a, b, MAY_DIFFER), sep="\n")
    first, second = ({(r["name"], r["unit"]): r["value"] for r in x["rows"]} for x in (a, b))
    print(f"{'':60}{'A':>12}{'B':>12}{'B/A':>8}")
    for (name, unit), value in first.items():
        if (other := second.get((name, unit))) is not None:
            ratio = other / value if value else float("nan")
            print(f"{name:60}{value:12.5g}{other:12.5g}{ratio:8.2f}  {unit}")
    print(f"rows in only one of the two: {len(first.keys() ^ second.keys())}")


if __name__ == "__main__":
    main()

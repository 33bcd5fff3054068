"""Ratios of two results of one benchmark, row by row: python bench/ratio.py A.json B.json

Results of different machines are refused unless `--anyway` is given.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

MUST_AGREE = ("script", "machine")  # otherwise the ratios mean nothing
MAY_DIFFER = ("commit", "versions", "settings")  # differences are printed above the table


def differences(a: dict[str, Any], b: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    return [f"{key}: {a[key]} and {b[key]}" for key in keys if a[key] != b[key]]


def ratios(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, str, float, float, float]]:
    """(name, unit, value in A, value in B, B / A) of the common rows, in A's order."""
    second = {(row["name"], row["unit"]): row["value"] for row in b["rows"]}
    table = []
    for row in a["rows"]:
        key, value = (row["name"], row["unit"]), row["value"]
        if key in second:
            ratio = second[key] / value if value else float("nan")
            table.append((*key, value, second[key], ratio))
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs=2, metavar=("A", "B"))
    parser.add_argument("--anyway", action="store_true", help="also compare different machines")
    options = parser.parse_args(arguments)
    a, b = (json.loads(path.read_text()) for path in options.files)
    wrong = differences(a, b, MUST_AGREE)
    if wrong and not options.anyway:
        sys.exit("\n".join([*wrong, "not comparable; --anyway compares them nevertheless"]))
    for line in wrong + differences(a, b, MAY_DIFFER):
        print(line)
    table = ratios(a, b)
    width = max([len(name) for name, *_ in table], default=0)
    print(f"{'':{width}}{'A':>12}{'B':>12}{'B/A':>8}")
    for name, unit, first, second, ratio in table:
        print(f"{name:{width}}{first:12.5g}{second:12.5g}{ratio:8.2f}  {unit}")
    if unmatched := len(a["rows"]) + len(b["rows"]) - 2 * len(table):
        print(f"rows in only one of the two: {unmatched}")


if __name__ == "__main__":
    main()

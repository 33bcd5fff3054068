"""Make `data/`, what these tests need of arrays recorded from the official code.

    PYTHONPATH=tests python tests/reference/compact.py FOLDER

FOLDER holds the recorded `.npz` files. Inputs and settings are kept whole. Weights are not kept:
they follow from their names (`golden.weight`), which is checked here bit by bit. Of every other
array its norm and at most `golden.ENTRIES` of its entries are kept (`golden.sampled`).
"""

import argparse
import json
import math
import re
from pathlib import Path

import numpy as np
from golden import DATA, sampled, weight

# What the weights of a file of one module are called in the rule that they were made by.
MODULES = {
    "encoder_plain": "encoder.",
    "encoder_ctx": "encoder.",
    "decoder_plain": "decoder.",
    "decoder_ctx": "decoder.",
    "rssm_actionfree": "af_rssm.",
    "rssm_action": "rssm.",
    "bonus": "bonus.",
}


def rule_name(file: str, name: str) -> str:
    """The rule's name of a weight; the policy's file puts a tag before it.

    Behaviour is in the official agent twice, and got its weights under the second name.
    """
    name = re.sub(r"^target_critic", "_target_critic", name.rpartition("/")[2])
    name = re.sub(r"^(_task_behavior\.)?(?=actor|critic|_target)", "_expl_behavior.", name)
    return MODULES.get(file, "") + name


def compact(source: Path, out: Path) -> int:
    """Write the compact form of one file and return its size in bytes."""
    kept, entries, first = {}, [], 0
    weights, recorded = {}, {}
    with np.load(source) as arrays:
        for name, array in arrays.items():
            kind, _, rest = name.partition("/")
            if kind in ("in", "settings"):
                kept[name] = array
            elif kind == "param":
                rule = rule_name(source.stem, rest)
                if not np.array_equal(weight(rule, array.shape), array):
                    raise SystemExit(f"{source.name}: {name} does not follow the rule as {rule}")
                weights[rest] = [rule, array.shape]
            else:
                values = array.astype(np.float64).ravel()
                entries.append(values[sampled(name, values.size)])
                norm = math.sqrt(math.fsum(values**2))
                recorded[name] = [array.shape, norm, first]
                first += len(entries[-1])
    table = json.dumps({"param": weights, "recorded": recorded})
    np.savez_compressed(out, table=table, entries=np.concatenate(entries), **kept)
    return out.stat().st_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    sources = sorted(folder.glob("*.npz"))
    if not sources:
        parser.error(f"no .npz files in {folder}")
    DATA.mkdir(exist_ok=True)
    sizes = [compact(source, DATA / source.name) for source in sources]
    for source, size in zip(sources, sizes, strict=True):
        print(f"{size:>9,} {source.name}")
    print(f"{sum(sizes):>9,} bytes")

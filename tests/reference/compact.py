"""Make `data/`, what these tests need of arrays recorded from the official code.

    PYTHONPATH=tests python tests/reference/compact.py FOLDER [--seed S] [--out DIR]

FOLDER holds the recorded `.npz` files and `spread.json`. Inputs and settings are kept whole.
Weights are not kept: they follow from the seed and their names (`golden.weight`), which is checked
here bit by bit. Of every other array its norm, its spread, and at most `golden.ENTRIES` of its
entries are kept (`golden.sampled`). `GOLDEN=DIR pytest tests/reference` compares with other
recordings than the project's own.
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

SIZES = {  # ours -> the official setting
    "deter": "rssm.deter",
    "stoch": "rssm.stoch",
    "classes": "rssm.discrete",
    "hidden": "rssm.hidden",
    "action_pad": "rssm.fill_action",
    "depth": "encoder.cnn_depth",
    "layers": "reward_head.layers",
    "units": "reward_head.units",
    "horizon": "imag_horizon",
    "neighbours": "k",
    "queue": "queue_size",
    "width": "queue_dim",
}


def rule_name(file: str, name: str) -> str:
    """The rule's name of a weight; the policy's file puts a tag before it.

    Behaviour is in the official agent twice, and got its weights under the second name.
    """
    name = re.sub(r"^target_critic", "_target_critic", name.rpartition("/")[2])
    name = re.sub(r"^(_task_behavior\.)?(?=actor|critic|_target)", "_expl_behavior.", name)
    return MODULES.get(file, "") + name


def compact(source: Path, out: Path, spread: dict[str, float], seed: int) -> int:
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
                if not np.array_equal(weight(rule, array.shape, seed), array):
                    raise SystemExit(f"{source.name}: {name} does not follow the rule as {rule}")
                weights[rest] = [rule, array.shape]
            else:
                values = array.astype(np.float64).ravel()
                entries.append(values[sampled(name, values.size)])
                norm, half = math.sqrt(math.fsum(values**2)), array.dtype == np.float16
                recorded[name] = [array.shape, norm, first, spread[name], half]
                first += len(entries[-1])
    table = json.dumps({"param": weights, "recorded": recorded})
    np.savez_compressed(out, table=table, entries=np.concatenate(entries), **kept)
    return out.stat().st_size


def about(folder: Path, seed: int) -> dict[str, int]:
    """The seed of the weights, and the sizes that all files share."""
    with np.load(folder / "finetune_ctx.npz") as arrays:
        settings = json.loads(str(arrays["settings/json"]))
        actions = arrays["in/batch0/action"].shape[-1]
    sizes = {name: settings[official] for name, official in SIZES.items()}
    return {"seed": seed, "actions": actions} | sizes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the rule for the weights")
    parser.add_argument("--out", type=Path, default=DATA)
    args = parser.parse_args()
    sources = sorted(args.folder.glob("*.npz"))
    if not sources:
        parser.error(f"no .npz files in {args.folder}")
    args.out.mkdir(parents=True, exist_ok=True)
    spread = json.loads((args.folder / "spread.json").read_text())
    sizes = {x: compact(x, args.out / x.name, spread[x.stem], args.seed) for x in sources}
    (args.out / "about.json").write_text(json.dumps(about(args.folder, args.seed), indent=1) + "\n")
    for source, size in sizes.items():
        print(f"{size:>9,} {source.name}")
    print(f"{sum(sizes.values()):>9,} bytes")

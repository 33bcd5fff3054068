"""List the clips of a dataset, or generate them, before they are decoded.

`videos.json` has the number of clips, and a checksum of the lists of all parts; see lists.py.
"""

import hashlib
import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from cwm.infra.files import TEMPORARY, locked_folder, relative, sha256, write_json
from cwm.infra.parallel import parallel_map
from cwm.videos import synthetic
from cwm.videos.datasets import Candidate, DatasetConfig, find, folder_of, nothing_found, sizes
from cwm.videos.images import Stills
from cwm.videos.lists import list_name, part_of, write_list

log = logging.getLogger(__name__)
SPILL = 2**18  # clips in memory at once
GROUP = 1024  # clips whose sizes one thread reads


def collect(name: str, cfg: DatasetConfig, out: Path, workers: int) -> None:
    """Generate a synthetic dataset, or list a folder of clips; write `out/videos.json` last.

    Equal names and sizes give equal lists. Raises UserError for an unknown stand-in, for a folder
    that is missing or has no clips, and for unusable annotations.
    """
    with locked_folder(out, "listing clips in"):
        if cfg.source == "standin":
            traits = synthetic.generate(cfg.standin, out, workers)
            root, written = out, "."
            placed = ((_place(clip), clip) for clip in find(root, replace(cfg, annotations={})))
            clips: Iterator[Candidate] = (
                clip._replace(attributes=traits[x]) for x, clip in placed if x in traits
            )
        else:
            root = folder_of(name, cfg)
            written = str(root) if root.is_absolute() else relative(root, out)
            clips = find(root, cfg)
        groups = iter(lambda: list(islice(clips, GROUP)), [])
        sized = parallel_map(partial(_with_sizes, root), groups, workers)
        count = write_lists(chain.from_iterable(sized), cfg.parts, written, out)
        if not count:
            raise nothing_found(root, cfg)
        lists = "".join(sha256(out / list_name(part)) for part in range(cfg.parts))
        content = hashlib.sha256(lists.encode()).hexdigest()
        write_json(out / "videos.json", {"clips": count, "parts": cfg.parts, "sha256": content})
    log.info("%s: %d clips", name, count)


def _place(clip: Candidate) -> str:
    """The clip's name in a stand-in: a file, or the folder of its stills."""
    return Path(clip.file).parent.as_posix() if clip.stills else clip.file


def _with_sizes(root: Path, clips: list[Candidate]) -> list[Candidate]:
    """Add the sizes; a file system on a network is slow to give them, so call this in threads."""
    found = []
    for clip in clips:
        with suppress(OSError):
            clip = clip._replace(bytes=sum(sizes(root, clip).values()))
        found.append(clip)
    return found


def write_lists(clips: Iterator[Candidate], parts: int, root: str, out: Path) -> int:
    """Write the list of every part, with few clips in memory; returns the number of clips.

    root: the folder of the files, relative to `out` unless it was given as an absolute path, so
    that results can be moved together with the data.
    """
    count = 0
    with tempfile.TemporaryDirectory(dir=out, prefix=TEMPORARY) as scratch:
        spilled = [Path(scratch) / str(part) for part in range(parts)]
        while group := list(islice(clips, SPILL)):
            count += len(group)
            lines: defaultdict[int, list[str]] = defaultdict(list)
            for clip in group:
                lines[part_of(clip.file, parts)].append(json.dumps(clip) + "\n")
            for part, of_part in lines.items():
                with spilled[part].open("a") as file:
                    file.writelines(of_part)
        for part, path in enumerate(spilled):
            of_part = path.read_text().splitlines() if path.exists() else []
            listed = sorted(map(_parse, of_part), key=lambda clip: clip.file)
            write_list(out / list_name(part), listed, {"root": root, "part": part, "parts": parts})
    for old in set(out.glob("list-*.parquet")) - {out / list_name(part) for part in range(parts)}:
        old.unlink()
    return count


def _parse(line: str) -> Candidate:
    clip = Candidate(*json.loads(line))
    return clip._replace(stills=Stills(*clip.stills)) if clip.stills else clip

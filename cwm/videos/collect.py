"""A dataset's name -> its clips, listed in `videos.jsonl`."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from cwm.infra.files import file_lock, relative, write_lines
from cwm.infra.parallel import parallel_map
from cwm.videos import synthetic
from cwm.videos.datasets import Candidate, ClipRecord, DatasetConfig, describe, find, folder_of

log = logging.getLogger(__name__)


def collect(name: str, cfg: DatasetConfig, out: Path, workers: int) -> None:
    """Make a stand-in or look into a folder of clips, and write `out/videos.jsonl` last.

    The list holds nothing that changes when the files do not. Its root is relative to `out`, so
    that results can be moved together with the data, unless the folder was given absolutely.
    Raises UserError for an unknown stand-in and for a folder that is missing or has no clips.
    """
    out.mkdir(parents=True, exist_ok=True)
    made: dict[str, dict[str, str]] = {}
    if cfg.source == "standin":
        root, written = out, "."
        with file_lock(root / ".lock", f"making clips in {root}"):
            made = synthetic.generate(cfg.standin, root, workers)
        clips = [clip for clip in find(root, replace(cfg, annotations={})) if _place(clip) in made]
    else:
        root = folder_of(name, cfg)
        written = str(root) if root.is_absolute() else relative(root, out)
        clips = find(root, cfg)
    videos = parallel_map(partial(describe, root, cfg=cfg), clips, workers)
    if made:
        videos = (v._replace(attributes=v.attributes | made[_place(v)]) for v in videos)
    write_lines(out / "videos.jsonl", written, videos)
    log.info("%s: %d clips", name, len(clips))


def _place(clip: Candidate | ClipRecord) -> str:
    """The place of a clip as stand-ins name it: a file, or the folder of its stills."""
    return Path(clip.file).parent.as_posix() if clip.stills else clip.file

"""What a machine refuses, in one line: no traceback helps a person whose disk is full."""

import errno
import os
from pathlib import Path

GOES_ON = "what is there is kept, and the same command goes on from it"
DISK = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "mount it to be written to",
    errno.EACCES: "change its owner or rights",
    errno.EPERM: "change its owner or rights",
    errno.EIO: "look after the disk",
    errno.EISDIR: "this folder is in a file's place: move it away",
    errno.ENOTDIR: "a file is in a folder's place: move it away",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: too many files are open on this machine",
    errno.ENOMEM: "free memory, or run fewer jobs at once",
    errno.EAGAIN: "raise the limit on processes (ulimit -u), or run fewer jobs at once",
    errno.EINTR: "free memory, or run fewer jobs at once; if it happens again, move this file away",
}
MEMORY = (  # how torch, for CPUs and GPUs, and numpy say so
    "out of memory",
    "can't allocate memory",
    "Unable to allocate",
    "ALLOC_FAILED",
    os.strerror(errno.ENOMEM),
)


def limit(error: BaseException) -> str | None:
    """What to do about an error that is the machine's limit; none: it is another kind of error."""
    if isinstance(error, OSError) and error.errno in DISK:
        place = error.filename2 or error.filename or Path.cwd()
        return f"{error.strerror}: {place}; {DISK[error.errno]}: {GOES_ON}"
    if isinstance(error, MemoryError) or any(words in str(error) for words in MEMORY):
        first = next(iter(str(error).splitlines()), "") or "no memory is left"
        return (
            f"out of memory ({first.strip()[:160]}). Needed is a smaller batch (finetune.batch,"
            " pretrain.batch), shorter sequences or a smaller finetune.replay.capacity, each of"
            " which makes another run; or fewer jobs at once on the card or machine"
        )
    return None

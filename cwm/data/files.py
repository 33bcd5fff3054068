"""Checksums of files, and files that are written whole or not at all."""

import hashlib
import json
from pathlib import Path


def sha256(path: Path) -> str:
    """Checksum of a regular file; OSError for anything else (a pipe would block for ever)."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: object) -> None:
    """Write a file that is either the old one or the whole new one, and says nothing of time."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    part.replace(path)

"""Extract an untrusted zip or tar archive into a folder: regular files and folders only.

Links, devices, paths that lead outside, files that occur twice and bombs are refused.
"""

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, Any
from zipfile import ZipFile, ZipInfo

from cwm.infra.errors import UserError
from cwm.infra.files import human

SUFFIX = re.compile(r"\.(zip|tar|tgz|tar\.gz|tar\.bz2|tar\.xz)$")
MAX_MEMBERS = 2_000_000  # Something-Something V2 has 220,847
MAX_NAME = 1_000  # bytes of a path
MAX_RATIO = 20  # bytes of content per byte of archive; videos and JPEGs have 1, labels 10
MIN_LIMIT = 100_000_000  # bytes of content that any archive may hold
MAX_HEADER = 16_384  # bytes of a long name, which tarfile reads into memory
CHUNK = 1 << 16  # bytes

OPENERS: dict[str, Callable[[Any], Any]] = {  # by suffix; a .tar is not compressed
    "tgz": gzip.open,
    "gz": gzip.open,
    "bz2": bz2.open,
    "xz": lzma.open,
}


def extract(name: str, paths: list[Path], folder: Path, limit: int | None = None) -> None:
    """Extract the archive `name`, which `paths` make up in this order, into an empty folder.

    limit: bytes that the content may have (none: in proportion to the archive). Raises UserError
    for an archive that is refused; the readers raise almost anything for a damaged one.
    """
    size = sum(path.stat().st_size for path in paths)
    members = _Members(name, limit or MIN_LIMIT + MAX_RATIO * size)

    if name.endswith(".zip"):
        with ZipFile(paths[0]) as archive:
            members.check_zip(archive)
            archive.extractall(folder)
    else:
        with closing(_pieces(paths)) as pieces:
            opener = OPENERS.get(name.rpartition(".")[2], lambda file: file)
            stream = opener(_Joined(pieces))
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
                # PEP 706, a second check; Debian 12's Python 3.11.2 does not have it.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                while member := tar.next():
                    # tarfile keeps them all in memory, in an attribute that its stub lacks
                    tar.members.clear()  # type: ignore[attr-defined]
                    is_file = member.isreg() and not member.issparse()
                    members.check(member.name, member.size, is_file, member.isdir())
                    tar.extract(member, folder, set_attrs=False)
            while stream.read(CHUNK):
                pass  # the checksum of the compression comes last
    if not members.names:
        raise ValueError("it is empty")


class _Members:
    """The members of an archive so far; refuses the next one if it is unsafe."""

    def __init__(self, archive: str, limit: int) -> None:
        self.archive, self.limit = archive, limit
        self.bytes = self.count = 0
        self.names: set[str] = set()  # of files, without case: some file systems ignore it

    def check(self, name: str, size: int, is_file: bool, is_folder: bool) -> None:
        """Count a member; raises UserError if it must not be extracted."""
        path = PurePosixPath(name)
        key = str(path).casefold()
        self.bytes += size
        self.count += 1
        large = f"exceeds the limit of {human(self.limit)}; set dataset.gigabytes if it is no bomb"
        reasons = {
            "leads out of the folder": path.is_absolute() or ".." in path.parts,
            "has no name": is_file and not path.name,
            "has a forbidden character": re.search(r"[\\\x00-\x1f\x7f]", name),
            "has too long a path": len(os.fsencode(name)) > MAX_NAME,
            "is a link, a device or a sparse file": not (is_file or is_folder),
            "occurs twice (upper and lower case are the same)": is_file and key in self.names,
            large: self.bytes > self.limit,
            f"is one of more than {MAX_MEMBERS} files: a bomb": self.count > MAX_MEMBERS,
        }
        if why := next((reason for reason, applies in reasons.items() if applies), None):
            raise UserError(f"{self.archive} is not extracted: its member {name[:200]!r} {why}")
        if is_file:
            self.names.add(key)

    def check_zip(self, archive: ZipFile) -> list[ZipInfo]:
        """Check all members of a zip archive; returns its files, sorted by name."""
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            is_file = kind in (0, stat.S_IFREG) and not member.is_dir()
            self.check(member.orig_filename, member.file_size, is_file, member.is_dir())
        files = (member for member in archive.infolist() if not member.is_dir())
        return sorted(files, key=lambda member: member.filename)


class _Header(tarfile.TarInfo):
    """A header that must be valid; tarfile takes an invalid one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # the stub lacks it
            raise  # zeros: this is the end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"truncated, or with a damaged header: {error}") from error
        if header.size < 0 or (header.size > MAX_HEADER and not header.isreg()):
            raise tarfile.ReadError(f"a header announces {header.size} bytes")
        return header


class _Joined:
    """Several streams read as one."""

    def __init__(self, streams: Iterator[IO[bytes]]) -> None:
        self.streams = streams
        self.current = next(streams, None)

    def read(self, size: int) -> bytes:
        while self.current is not None:
            if data := self.current.read(size):
                return data
            self.current = next(self.streams, None)
        return b""


def _pieces(paths: list[Path]) -> Generator[IO[bytes], None, None]:
    """The parts of an archive, in order; a part may be a zip archive of parts, sorted by name.

    Something-Something V2 comes as such parts in zip archives, and as plain parts named .zip.
    """
    for path in paths:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\3\4"
            file.seek(0)
            if not is_zip:
                yield file
                continue
            members = _Members(path.name, MIN_LIMIT + MAX_RATIO * path.stat().st_size)
            with ZipFile(file) as archive:
                for member in members.check_zip(archive):
                    with archive.open(member) as piece:
                        yield piece

"""Archives to folders: whole or not at all, and nothing outside.

`archives/NAME.tgz` becomes the folder `NAME`, made under another name and renamed when all is in
it. Only regular files and folders are taken, and all of them are written here and not by the
libraries that read the archives.
"""

import bz2
import errno
import gzip
import io
import json
import logging
import lzma
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import human
from cwm.videos.download import FOLDER, PACKED, Archive, checksum

log = logging.getLogger(__name__)

MARKER = ".extracted.json"  # in the folder: sha256 of the files that it was made of
MEMBERS = 2_000_000  # of an archive; Something-Something V2 has 220,847
RATIO = 20  # bytes of content to a byte of archive; videos and JPEGs have 1, text and labels 10
SMALL = 100_000_000  # bytes of content that any archive may have
HEADER = 16_384  # bytes of a long name; tarfile reads as many as are announced
CHUNK = 1 << 20  # bytes

OPENERS: dict[str, Callable[[Any], Any]] = {
    ".tar": lambda file: file,
    ".tgz": gzip.open,
    ".tar.gz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}


class Group(NamedTuple):
    """An archive, and the files that make it up."""

    name: str
    files: list[Archive]

    def target(self, folder: Path) -> Path:
        """The folder that its content goes to."""
        return folder / PACKED.sub("", self.name)


def groups(archives: Iterable[Archive]) -> list[Group]:
    """The archives that files make up; raises UserError where two would meet in one place."""
    found: dict[str, Group] = {}
    for archive in archives:
        name = archive.join or archive.file
        found.setdefault(name, Group(name, [])).files.append(archive)
    files = [archive.file for group in found.values() for archive in group.files]
    targets = [FOLDER, *(group.target(Path()).name for group in found.values())]
    for names in (files, targets):
        if len(set(names)) < len(names):
            twice = max(names, key=names.count)
            raise UserError(f"two archives called {twice}, or with a folder of that name")
    return list(found.values())


def is_extracted(group: Group, folder: Path) -> bool:
    """Whether the folder is there and made of the files that the settings ask for."""
    try:
        made_of = json_file.read(group.target(folder) / MARKER)
    except UserError:
        return False
    return [file.file for file in group.files] == list(made_of) and all(
        file.sha256 in (None, made_of[file.file]) for file in group.files
    )


def extract(archives: Iterable[Archive], folder: Path) -> None:
    """Extract what was downloaded to `folder/archives` and is not extracted yet.

    Raises UserError, and leaves nothing behind, for a damaged archive, for one that holds what
    videos do not need (links, devices, names that lead elsewhere) or much more than its size lets
    expect (a bomb), when the disk is full, and where a folder of another origin is in the way.
    """
    for group in groups(archives):
        if not is_extracted(group, folder):
            paths = [folder / FOLDER / file.file for file in group.files]
            try:
                _extract(group, paths, folder)
            except UserError:
                raise
            except Exception as error:  # readers of archives raise nearly anything
                if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                    said = f"{error.strerror}; the archive is kept, and the same command goes on"
                    raise UserError(f"cannot extract {group.name}: {said}") from error
                reason, files = str(error) or type(error).__name__, ", ".join(map(str, paths))
                said = f"is damaged ({reason}); delete {files} and run again"
                raise UserError(f"{group.name} {said}") from error


def _extract(group: Group, paths: list[Path], folder: Path) -> None:
    target = group.target(folder)
    if target.exists():
        raise UserError(f"{target} is there, but not made of {group.name}; move or delete it")
    temporary = folder / f".{target.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        log.info("%s: extracting to %s", group.name, target)
        sizes = sum(path.stat().st_size for path in paths)
        told = sum(file.extracted_bytes or 0 for file in group.files)
        writer = _Writer(group.name, temporary, told or SMALL + RATIO * sizes)
        if group.name.endswith(".zip"):
            _unzip(paths[0], writer)
        else:
            _untar(group.name, paths, writer)
        if not writer.bytes:
            raise ValueError("nothing is in it")
        made_of = {file.file: checksum(file, folder) for file in group.files}
        (temporary / MARKER).write_text(json.dumps(made_of))
        os.sync()  # the marker must not outlive files that never reached the disk
        temporary.rename(target)
        log.info("%s: %d files and folders, %s", target, writer.members, human(writer.bytes))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Writer:
    """Puts files below a folder; refuses names that lead elsewhere or meet, and bombs."""

    def __init__(self, archive: str, root: Path, limit: int) -> None:
        self.archive, self.root, self.limit = archive, root, limit
        self.bytes = self.members = 0
        self.known = {MARKER: (MARKER, False)}  # without case -> as written, and if it is a folder

    def file(self, name: str, size: int, content: BinaryIO) -> None:
        """Write a file of `size` bytes; raises ValueError if the content is shorter or longer."""
        self.bytes += size
        if self.bytes > self.limit:
            raise UserError(
                f"{self.archive} holds more than {human(self.limit)}, which its size does not let"
                " expect: a bomb, or extracted_bytes must be set"
            )
        with self.place(name, is_folder=False).open("xb") as file:
            shutil.copyfileobj(content, file, CHUNK)
            if file.tell() != size:
                raise ValueError(f"{name[:200]!r} is not as long as announced")

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raise UserError that names a member."""
        raise UserError(f"{self.archive} is not extracted: {name[:200]!r} {why}")

    def place(self, name: str, is_folder: bool) -> Path:
        """Where a member goes; makes the folders on the way there, and that which it is."""
        self.members += 1
        if self.members > MEMBERS:
            raise UserError(f"{self.archive} holds more than {MEMBERS} files: a bomb")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            self.refuse(name, "leads out of the folder")
        if "\\" in name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
            self.refuse(name, "has a forbidden character")
        if len(os.fsencode(name)) > 1000 or any(len(os.fsencode(part)) > 255 for part in parts):
            self.refuse(name, "is too long a name")
        if not (parts or is_folder):
            self.refuse(name, "is no name of a file")
        path = ""
        for number, part in enumerate(parts, 1):
            path = f"{path}/{part}" if path else part
            this = (path, is_folder or number < len(parts))
            new = path.casefold() not in self.known
            if self.known.setdefault(path.casefold(), this) != this or not (new or this[1]):
                self.refuse(name, "meets another member, on some systems at least")
            if new and this[1]:
                (self.root / path).mkdir()
        return self.root / path


def _unzip(path: Path, writer: _Writer) -> None:
    with ZipFile(path) as archive:
        for member in _members(archive, writer):
            if member.is_dir():
                writer.place(member.orig_filename, is_folder=True)
            else:
                with archive.open(member) as content:
                    writer.file(member.orig_filename, member.file_size, content)


def _members(archive: ZipFile, writer: _Writer) -> Iterator[ZipInfo]:
    """What a zip archive holds; refused as a whole for one member that cannot be taken."""
    for member in archive.infolist():
        name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            writer.refuse(name, "is a link or device")
        if member.flag_bits & 1:
            writer.refuse(name, "is encrypted: extract it by hand")
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # others are read unbounded
            writer.refuse(name, "is compressed in a rare way: extract it by hand")
        if member.file_size > SMALL + RATIO * member.compress_size:
            writer.refuse(name, "is out of proportion: a bomb")
    yield from archive.infolist()


def _untar(name: str, paths: list[Path], writer: _Writer) -> None:
    opener = OPENERS[PACKED.search(name)[0]]
    with closing(_pieces(paths, writer)) as pieces:
        stream = _Bounded(opener(io.BufferedReader(_Joined(pieces), CHUNK)), writer)
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # it would keep all
                if member.isdir():
                    writer.place(member.name, is_folder=True)
                elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse():
                    writer.file(member.name, member.size, archive.extractfile(member))
                else:
                    writer.refuse(member.name, "is a link, a device or a sparse file")
        while stream.read(CHUNK):
            pass  # the checksum comes last


class _Header(tarfile.TarInfo):
    """A header that is looked at before tarfile acts on it."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Header":
        if len(buf) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends too early")  # tarfile would take this for the end
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(f"a header is damaged: {error}") from error
            raise  # zeros: the end
        is_file = header.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if header.size < 0 or (header.size > HEADER and not is_file):
            raise tarfile.ReadError("a header is too long")
        return header


class _Bounded:
    """A stream of a tar archive, cut off where only a bomb would go on."""

    def __init__(self, stream: Any, writer: _Writer) -> None:
        self.stream, self.archive = stream, writer.archive
        self.left = SMALL + 2 * writer.limit  # the rest are headers

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise UserError(f"{self.archive} does not end: a bomb")
        return data


class _Joined(io.RawIOBase):
    """Streams one after the other, as if they were one."""

    def __init__(self, streams: Iterator[BinaryIO]) -> None:
        self.streams = streams
        self.now = next(streams, None)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self.now is not None:
            if count := self.now.readinto(buffer):
                return count
            self.now = next(self.streams, None)
        return 0


def _pieces(paths: list[Path], writer: _Writer) -> Iterator[BinaryIO]:
    """The parts of an archive in turn; a zip archive stands for the parts in it, by name.

    Something-Something V2 was given out as such parts, in zip archives, and as parts called .zip.
    """
    for path in paths:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\3\4"
            file.seek(0)
            if not zipped:
                yield file
            else:
                with ZipFile(file) as archive:
                    for member in sorted(_members(archive, writer), key=lambda x: x.filename):
                        if not member.is_dir():
                            with archive.open(member) as piece:
                                yield piece

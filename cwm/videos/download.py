"""Archives from the network: gone on with, tried again, checked, and never there by halves.

In `archives/` a download is `NAME.part` until size and checksum are right, with `NAME.part.json`
that says which file of which address it is a part of. `NAME.json` keeps the checksum for good:
where the settings give none, the first download is believed, and none that differs from it.
"""

import logging
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, NonNegativeInt, PositiveInt, StringConstraints, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import check_space, human, sha256, write_json

if TYPE_CHECKING:
    from requests import Response

log = logging.getLogger(__name__)

FOLDER = "archives"  # where they lie, in the folder of a dataset
PACKED = re.compile(r"\.(zip|tar|tgz|tar\.gz|tar\.bz2|tar\.xz)$")
Address = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+/\S*$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_+.-]{0,199}$")]
Checksum = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

CONNECT, SILENCE = 10.0, 30.0  # seconds to wait for a connection, and for the next byte
SLOW = (60.0, 1 << 16)  # seconds, and the bytes that they must bring
TRIES = 5  # of one address, in a row
PROGRESS = 1 << 20  # bytes that make a try not count as failed
BACKOFF, LONGEST = 1.0, 60.0  # seconds before the second try, doubled up to the longest
EVERY = 10.0  # seconds between two lines in the log
PASSING = (408, 425, 429, 500, 502, 503, 504)  # what a server says that may be better soon
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Archive:
    """A file to be had, and the archive that it is or is a part of."""

    file: Name  # what it is called here
    urls: tuple[Address, ...] = ()  # the primary first, then mirrors; none: fetched by hand
    bytes: PositiveInt | None = None
    sha256: Checksum | None = None  # none: that of the first download
    join: Name | None = None  # the archive that this file and others of this name, in turn, make up
    extracted_bytes: PositiveInt | None = None  # of what is in it; of parts: their share

    @model_validator(mode="after")
    def _is_packed(self) -> "Archive":
        if not PACKED.search(self.join or self.file):
            raise ValueError("the name must end in .zip, .tar, .tgz, .tar.gz, .tar.bz2 or .tar.xz")
        if self.join and self.join.endswith(".zip"):
            raise ValueError("parts can be joined to a tar archive only")
        if self.file.endswith((".part", ".json")):
            raise ValueError("names that end in .part or .json are taken by notes on downloads")
        return self


class Fault(Exception):
    """Why an address did not give the file."""


class PassingFault(Fault):
    """A fault that another try may not meet."""


def download(archives: Iterable[Archive], folder: Path) -> None:
    """Bring all archives to `folder/archives`, going on from what is there.

    Only one process may do so at a time. Raises UserError where no address gives the right file,
    where the disk is too small, and where a file is there that is not the expected one.
    """
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        for archive in archives:
            _bring(archive, folder / FOLDER / archive.file)
    except OSError as error:
        raise UserError(
            f"cannot write in {folder / FOLDER}: {error.strerror};"
            " what is there is kept, and the same command goes on from it"
        ) from error


def checksum(archive: Archive, folder: Path) -> str | None:
    """The sha256 of the archive as it was downloaded first; none: not yet."""
    return _read(_note(folder / FOLDER / archive.file)).get("sha256")


def _bring(archive: Archive, path: Path) -> None:
    if path.exists():
        try:
            _check(archive, path, path)
        except Fault as fault:
            raise UserError(f"{path}: {fault}; delete it and run again") from None
        return _note(_part(path)).unlink(missing_ok=True)  # left by a kill at the end
    faults = []
    for url in archive.urls:
        try:
            return _persist(archive, url, path)
        except Fault as fault:
            faults.append(f"{url}: {fault}")
    raise UserError(f"cannot download {path}: {'; '.join(faults) or 'no address is known'}")


def _persist(archive: Archive, url: str, path: Path) -> None:
    """Try one address again as long as it brings bytes, and some times more."""
    part, tries = _part(path), 0
    best = _size(part)
    while True:
        try:
            return _try(archive, url, path)
        except Fault as fault:
            tries = 1 if _size(part) >= best + PROGRESS else tries + 1
            best = max(best, _size(part))
            log.warning("%s: %s: %s", path.name, url, fault)
            if not isinstance(fault, PassingFault) or tries >= TRIES:
                raise
        time.sleep(min(BACKOFF * 2 ** (tries - 1), LONGEST))


def _try(archive: Archive, url: str, path: Path) -> None:
    """Ask one address once for what is missing, and put the file in its place if it is right."""
    part = _part(path)
    about, have = _read(_note(part)), _size(part)
    mark = about.get("mark") if about.get("url") == url else None
    if not (mark or archive.sha256 or _read(_note(path))):
        have = 0  # nothing would tell whether what comes belongs to what is there
    total = archive.bytes or about.get("total")
    if have == 0 or have != total:
        have = _request(archive, url, part, 0 if total and have > total else have, mark)
    try:
        _check(archive, part, path)
    except Fault as fault:
        part.unlink()
        # What was there before may have been of another file.
        raise (PassingFault if have else Fault)(str(fault)) from None
    part.replace(path)
    _note(part).unlink(missing_ok=True)


def _request(archive: Archive, url: str, part: Path, have: int, mark: str | None) -> int:
    """Append to a part what the server sends; returns how much of what was there is kept."""
    headers = {"Accept-Encoding": "identity"}  # the file's own bytes
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": mark} if mark else {})
    with _open(url, headers) as response:
        start, total = _extent(response, part, have, mark)
        if archive.bytes and total not in (None, archive.bytes):
            raise Fault(f"wrong size: expected {archive.bytes} bytes, got {total}")
        total = archive.bytes if total is None else total
        if total is None and response.headers.get("Transfer-Encoding") != "chunked":
            raise Fault("the server does not say how long the file is, nor do the settings")
        check_space(part.parent, (total or 0) - start, part.stem)
        if start == 0:
            part.unlink(missing_ok=True)
        mark = _mark(response) or (mark if start else None)
        write_json(_note(part), {"url": url, "mark": mark, "total": total})
        _append(response, part, start, total)
    return start


def _open(url: str, headers: dict[str, str]) -> "Response":
    import requests

    try:
        return requests.get(url, headers=headers, stream=True, timeout=(CONNECT, SILENCE))
    except requests.Timeout as error:
        raise PassingFault("timed out") from error
    except requests.ConnectionError as error:
        raise PassingFault(f"no connection ({_root(error)})") from error
    except requests.RequestException as error:
        raise Fault(f"{type(error).__name__}: {error}") from error


def _extent(
    response: "Response", part: Path, have: int, mark: str | None
) -> tuple[int, int | None]:
    """Where in the file the answer begins, and how long the file is, if the server says so.

    Raises Fault for an answer without the file; forgets a part that cannot be gone on with.
    """
    status, given = response.status_code, response.headers
    if status in (200, 206) and given.get("Content-Type", "").startswith("text/html"):
        raise Fault("a web page instead of the file (behind a login, perhaps)")
    if status == 200:
        length = given.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    if status == 206 and have:
        found = re.fullmatch(rf"bytes {have}-\d+/(\d+|\*)", given.get("Content-Range", ""))
        if found and (not mark or _mark(response) in (None, mark)):
            return have, int(found[1]) if found[1] != "*" else None
    if status in (206, 416):
        part.unlink(missing_ok=True)
        raise PassingFault(f"cannot go on at byte {have}, or the file has changed")
    raise (PassingFault if status in PASSING else Fault)(f"{status} {response.reason}")


def _append(response: "Response", part: Path, start: int, total: int | None) -> None:
    """Write what arrives at once: a kill costs the bytes in flight only."""
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    size = told = begun = start
    since = said = time.monotonic()
    arriving = iter(lambda: response.raw.read1(CHUNK, decode_content=False), b"")
    try:
        with part.open("ab") as file:
            for chunk in arriving:
                size += len(chunk)
                if total is not None and size > total:
                    raise Fault(f"more than the {total} bytes that it should be")
                file.write(chunk)
                file.flush()
                now = time.monotonic()
                if now - said >= EVERY:
                    rate = human((size - told) / (now - said))
                    whole = human(total) if total else "an unknown size"
                    log.info("%s: %s of %s, %s/s", part.stem, human(size), whole, rate)
                    said, told = now, size
                if now - since >= SLOW[0]:
                    if size - begun < SLOW[1]:
                        raise PassingFault(f"slower than {SLOW[1]} bytes in {SLOW[0]:g} s")
                    since, begun = now, size
            os.fsync(file.fileno())
    except ReadTimeoutError as error:
        raise PassingFault(f"timed out: silent for {SILENCE:g} s") from error
    except HTTPError as error:
        raise PassingFault(f"dropped ({error})") from error
    if total is not None and size < total:
        raise PassingFault(f"dropped after {size} of {total} bytes")


def _check(archive: Archive, file: Path, path: Path) -> None:
    """Remember the checksum of a complete file; raises Fault if it is not the expected one."""
    size, note = _size(file), _note(path)
    if archive.bytes not in (None, size):
        raise Fault(f"wrong size: expected {archive.bytes} bytes, got {size}")
    digest, known = sha256(file), _read(note).get("sha256")
    if archive.sha256 not in (None, digest):
        raise Fault(f"wrong sha256: expected {archive.sha256}, got {digest}")
    if archive.sha256 is None and known not in (None, digest):
        raise Fault(f"wrong sha256: {known} at first, as {note} keeps it, and now {digest}")
    if known != digest:
        log.info("%s: %s, sha256 %s", path.name, human(size), digest)
        write_json(note, {"bytes": size, "sha256": digest})


def _mark(response: "Response") -> str | None:
    """What tells this version of the file from others, if it is one that If-Range allows."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _root(error: BaseException) -> str:
    """What the system said, below what libraries made of it."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Note(TypedDict, total=False):
    url: str
    mark: str | None
    total: NonNegativeInt | None
    bytes: int
    sha256: str


def _read(note: Path) -> _Note:
    """What a note says; nothing if it is missing or no note."""
    try:
        return json_file.read(note, _Note)
    except UserError:
        return {}

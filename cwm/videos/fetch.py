"""Download the archives of a dataset, verify them and extract them into its folder.

`archives/FILE`             a complete archive; `FILE.json` keeps its sha256
`archives/FILE.part`        an incomplete download, which the next run resumes
`ARCHIVE/`                  what an archive holds; it appears when it is complete

Where the settings give no sha256, the first download is trusted, and a later one must equal it.
"""

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, StringConstraints, model_validator
from pydantic.dataclasses import dataclass

from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import TEMPORARY, check_space, file_lock, human, sha256, write_json
from cwm.videos.extract import CHUNK, SUFFIX, extract

if TYPE_CHECKING:
    from requests import Response

log = logging.getLogger(__name__)

FOLDER = "archives"  # of the downloads, in the folder of a dataset
MARKER = ".extracted.json"  # in an extracted folder: the sha256 of the files it was made from
TIMEOUT = (10.0, 30.0)  # seconds to wait for a connection, and for the next byte
ATTEMPTS = 5  # in a row without PROGRESS bytes, before an address is given up
PROGRESS = 1 << 20
BACKOFF = 1.0  # seconds before the second attempt, doubled each time
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes that are worth a retry
EVERY = 10.0  # seconds between two log lines

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+/\S*$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_+.-]{0,199}$")]
Checksum = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Archive:
    """A file to download, which is an archive or a part of one."""

    file: Name  # its name in the folder
    urls: tuple[Url, ...] = ()  # the primary first, then mirrors; none: downloaded by hand
    sha256: Checksum | None = None  # none: record the first download's
    join: Name | None = None  # the archive that the files with this `join` make up, in this order

    @model_validator(mode="after")
    def _check_names(self) -> "Archive":
        if not SUFFIX.search(self.join or self.file):
            raise ValueError("the name must end in .zip, .tar, .tgz, .tar.gz, .tar.bz2 or .tar.xz")
        if self.join and self.join.endswith(".zip"):
            raise ValueError("parts can be joined to a tar archive only")
        if self.file.endswith((".part", ".json")):
            raise ValueError("the name must not end in .part or .json")
        return self


class Fault(Exception):
    """Why a download failed, or a file is not the expected one."""


class Dropped(Fault):
    """The connection failed or ended early, and a retry can resume."""


def fetch(
    archives: Sequence[Archive], folder: Path, steps: str = "", disk_bytes: int | None = None
) -> None:
    """Download, verify and extract what is missing in a dataset's folder.

    Idempotent: an interrupted call is resumed by the same call. Archives without an address are
    expected in `folder/archives`, or their content elsewhere in the folder.

    steps: instructions for a download by hand. disk_bytes: of the archives and their content.
    Raises UserError, with the steps, when files must be fetched by hand; when a download fails or
    has the wrong sha256; for an archive that is damaged or unsafe; when the disk is too small; and
    while another process fetches the same dataset.
    """
    groups: dict[str, list[Archive]] = {}  # by archive: the files that make it up
    for file in archives:
        groups.setdefault(file.join or file.file, []).append(file)
    targets = {name: folder / SUFFIX.sub("", name) for name in groups}
    path_of = {file: folder / FOLDER / file.file for file in archives}
    for places in ([path_of[x] for x in archives], [folder / FOLDER, *targets.values()]):
        if twice := next((place for place in places if places.count(place) > 1), None):
            raise UserError(f"two archives need the same place: {twice}")
    todo = [name for name in groups if not _is_extracted(targets[name], groups[name])]
    absent = [x for name in todo for x in groups[name] if not (x.urls or path_of[x].exists())]
    if absent or not archives:
        if set(folder.glob("[!.]*")) <= {folder / FOLDER, *targets.values()}:
            raise _by_hand([file.file for file in absent], folder, steps, disk_bytes)
        log.info("%s: its files are used as they are", folder)
    todo = [name for name in todo if not set(groups[name]) & set(absent)]
    if not todo:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock", f"fetching {folder}"):
        files = [file for name in todo for file in groups[name]]
        if disk_bytes and len(todo) == len(groups):  # else the rest needs an unknown share of it
            present = sum(_size(path_of[x]) + _size(_part(path_of[x])) for x in files)
            check_space(folder, disk_bytes - present, str(folder))
        if steps:
            log.info("%s", steps)  # they name the licence
        for file in files:
            _fetch_file(file, path_of[file])
        for name in todo:
            _extract(name, [path_of[file] for file in groups[name]], targets[name], disk_bytes)


def _is_extracted(target: Path, files: list[Archive]) -> bool:
    """Whether a folder was extracted from the files that the settings name."""
    known = _read(target / MARKER)
    return [file.file for file in files] == list(known) and all(
        file.sha256 in (None, known[file.file]) for file in files
    )


def _by_hand(absent: list[str], folder: Path, steps: str, disk_bytes: int | None) -> UserError:
    what = f"{', '.join(absent)} in {folder / FOLDER}" if absent else f"files in {folder}"
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    needed = f"{human(disk_bytes)} of disk are needed, " if disk_bytes else ""
    space = f"{needed}{human(shutil.disk_usage(existing).free)} are free"
    return UserError(f"expected: {what}, which must be fetched by hand: {steps} ({space})")


def _fetch_file(archive: Archive, path: Path) -> None:
    """Verify the file if it is there, or else download it from the first address that works."""
    faults = []
    try:
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            return _verify(archive, path, path)
        for url in archive.urls:
            try:
                return _download(archive, url, path)
            except Fault as fault:
                faults.append(f"{url}: {fault}")
    except Fault as fault:
        raise UserError(f"{path}: {fault}; delete it and run again") from None
    except OSError as error:
        reason = f"cannot write in {path.parent}: {error.strerror}"
        raise UserError(f"{reason}; run again to resume the download") from error
    raise UserError(f"cannot download {path}: {'; '.join(faults)}")


def _download(archive: Archive, url: str, path: Path) -> None:
    """Download from one address, resuming as long as the file grows."""
    part = _part(path)
    best, failed = _size(part), 0
    while True:
        try:
            _request(url, path)
            break
        except Dropped as dropped:
            log.warning("%s: %s: %s", path.name, url, dropped)
            failed += 1
            if _size(part) >= best + PROGRESS:
                best, failed = _size(part), 1
            if failed >= ATTEMPTS:
                raise
            time.sleep(BACKOFF * 2 ** (failed - 1))
    try:
        _verify(archive, part, path)
    except Fault:
        part.unlink()
        raise
    part.replace(path)


def _request(url: str, path: Path) -> None:
    """Request what is missing of the file, and append it to the part.

    The rest is requested only if the server's validator says that it is of the same file.
    """
    import requests

    part, note = _part(path), _read(_note(path))
    validator = note.get("validator") if note.get("url") == url else None
    start = _size(part) if validator else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(validator)}
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        kind = Dropped if isinstance(error, requests.ConnectionError | requests.Timeout) else Fault
        raise kind(f"{type(error).__name__}: {_root(error)}") from error
    with response:
        status, given = response.status_code, response.headers
        tag = given.get("ETag", "")  # of the file's version; If-Range refuses weak ones
        new = tag if tag.startswith('"') else given.get("Last-Modified")
        if status == 416 and given.get("Content-Range") == f"bytes */{start}":
            return  # the part is complete
        continues = given.get("Content-Range", "").startswith(f"bytes {start}-")
        resumes = status == 206 and continues and new in (None, validator)
        if not resumes and status in (206, 416):
            part.unlink(missing_ok=True)
            raise Dropped(f"the server cannot resume at byte {start}")
        if status not in (200, 206):
            raise (Dropped if status in TRANSIENT else Fault)(f"{status} {response.reason}")
        if given.get("Content-Type", "").startswith("text/html"):
            raise Fault("a web page instead of the file (is a login needed?)")
        if not resumes:
            part.unlink(missing_ok=True)
            start = 0
        length = given.get("Content-Length", "")
        if not length.isdigit() and given.get("Transfer-Encoding") != "chunked":
            raise Fault("the server does not say how long the file is")
        check_space(part.parent, int(length or 0), path.name)
        write_json(_note(path), note | {"url": url, "validator": new})
        _append(response, part, human(start + int(length)) if length else "unknown")


def _append(response: "Response", part: Path, total: str) -> None:
    """Write the bytes as they arrive, so that a kill loses only those in flight."""
    from urllib3.exceptions import HTTPError

    logged = time.monotonic()
    try:
        with part.open("ab") as file:
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                file.flush()
                if time.monotonic() - logged >= EVERY:
                    logged = time.monotonic()
                    log.info("%s: %s of %s", part.stem, human(file.tell()), total)
            os.fsync(file.fileno())
    except HTTPError as error:  # also for a body shorter than Content-Length
        raise Dropped(f"dropped after {_size(part)} bytes ({_root(error)})") from error


def _verify(archive: Archive, file: Path, path: Path) -> None:
    """Raise Fault if a complete file has the wrong sha256; note the sha256 of a new one."""
    note, digest = _note(path), sha256(file)
    first = _read(note).get("sha256")
    if digest != (expected := archive.sha256 or first or digest):
        source = "" if archive.sha256 else f", which {note} keeps"
        raise Fault(f"wrong sha256: expected {expected}{source}, got {digest}")
    if first != digest:
        log.info("%s: %s, sha256 %s", path.name, human(_size(file)), digest)
        write_json(note, {"sha256": digest})


def _extract(name: str, paths: list[Path], target: Path, limit: int | None) -> None:
    """Extract an archive into a temporary folder, and rename it when it is on the disk."""
    if target.exists():
        raise UserError(f"{target} was not extracted from {name}; move or delete it")
    temporary = target.with_name(TEMPORARY + target.name)
    shutil.rmtree(temporary, ignore_errors=True)
    log.info("%s: extracting to %s", name, target)
    try:
        temporary.mkdir()
        extract(name, paths, temporary, limit)
        known = {path.name: _read(_note(path)).get("sha256") for path in paths}
        (temporary / MARKER).write_text(json.dumps(known))
        os.sync()  # the marker must not reach the disk before the files
        temporary.rename(target)
    except UserError:
        raise
    except Exception as error:  # readers of archives raise almost anything
        code = getattr(error, "errno", None)
        reason = os.strerror(code) if code else str(error) or type(error).__name__
        remedy = f"if it is damaged, delete {', '.join(map(str, paths))} and run again"
        if code not in (None, errno.EINVAL):
            remedy = "run again to resume"
        raise UserError(f"cannot extract {name}: {reason}; {remedy}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _root(error: BaseException) -> str:
    """Message of the root exception."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(note: Path) -> dict[str, Any]:
    """Content of a note; empty if it is missing or damaged."""
    try:
        return json_file.read(note)
    except UserError:
        return {}

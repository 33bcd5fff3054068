"""Download the archives of a dataset, verify them and extract them into its folder.

`archives/FILE`             a complete archive; `FILE.json` keeps its size and sha256
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
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import ConfigDict, PositiveInt, StringConstraints, model_validator
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
CONNECT, SILENCE = 10.0, 30.0  # seconds to wait for a connection, and for the next byte
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
    urls: tuple[Url, ...] = ()  # the primary first, then mirrors; none: a person brings the file
    bytes: PositiveInt | None = None
    sha256: Checksum | None = None  # none: record the first download's
    join: Name | None = None  # the archive that the files with this `join` make up, in this order
    extracted_bytes: PositiveInt | None = None  # of its content; of a part: its share

    @model_validator(mode="after")
    def _check_names(self) -> "Archive":
        if not SUFFIX.search(self.archive):
            raise ValueError("the name must end in .zip, .tar, .tgz, .tar.gz, .tar.bz2 or .tar.xz")
        if self.join and self.join.endswith(".zip"):
            raise ValueError("parts can be joined to a tar archive only")
        if self.file.endswith((".part", ".json")):
            raise ValueError("the name must not end in .part or .json")
        return self

    @property
    def archive(self) -> str:
        """Name of the archive that the file belongs to."""
        return self.join or self.file


class Group(NamedTuple):
    """An archive: the files that make it up, and the folder that it is extracted to."""

    name: str
    files: list[Archive]
    paths: list[Path]
    target: Path

    @property
    def missing(self) -> list[str]:
        """The files that a person has yet to bring."""
        pairs = zip(self.files, self.paths, strict=True)
        return [file.file for file, path in pairs if not (file.urls or path.exists())]

    @property
    def is_extracted(self) -> bool:
        """Whether the folder was extracted from the files that the settings name."""
        known = _read(self.target / MARKER)
        return [file.file for file in self.files] == list(known) and all(
            file.sha256 in (None, known[file.file]) for file in self.files
        )


class Fault(Exception):
    """Why an address did not give the file."""


class Dropped(Fault):
    """The connection ended early, and a retry can resume."""


def fetch(
    archives: Sequence[Archive], folder: Path, steps: str = "", disk_bytes: int | None = None
) -> None:
    """Download, verify and extract what is missing in a dataset's folder.

    Idempotent: an interrupted call is resumed by the same call. Archives without an address are
    expected in `folder/archives`, or their content elsewhere in the folder.

    steps: how a person gets the dataset. disk_bytes: the space that it takes.
    Raises UserError, with the steps, when files must be fetched by hand; when a download fails or
    has the wrong size or sha256; for an archive that is damaged or unsafe; when the disk is too
    small; and while another process fetches the same dataset.
    """
    groups = _groups(archives, folder)
    todo = [group for group in groups if not group.is_extracted]
    missing = [name for group in todo for name in group.missing]
    if missing or not archives:
        if not _has_other_files(folder, groups):
            total = disk_bytes or sum((f.bytes or 0) + (f.extracted_bytes or 0) for f in archives)
            raise _by_hand(missing, folder, steps, total)
        log.info("%s: its files are used as they are", folder)
    todo = [group for group in todo if not group.missing]
    if not todo:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock", f"fetching {folder}"):
        files = [pair for group in todo for pair in zip(group.files, group.paths, strict=True)]
        check_space(folder, sum(_bytes_needed(*pair) for pair in files), str(folder))
        if steps:
            log.info("%s", steps)  # they name the licence
        for archive, path in files:
            _fetch_file(archive, path)
        for group in todo:
            _extract(group)


def _groups(archives: Sequence[Archive], folder: Path) -> list[Group]:
    files: dict[str, list[Archive]] = {}
    for archive in archives:
        files.setdefault(archive.archive, []).append(archive)
    groups = [
        Group(
            name,
            members,
            [folder / FOLDER / archive.file for archive in members],
            folder / SUFFIX.sub("", name),
        )
        for name, members in files.items()
    ]
    paths = [path for group in groups for path in group.paths]
    targets = [folder / FOLDER, *(group.target for group in groups)]
    for places in (paths, targets):
        if len(set(places)) < len(places):
            raise UserError(f"two archives need the same place: {max(places, key=places.count)}")
    return groups


def _has_other_files(folder: Path, groups: list[Group]) -> bool:
    """Whether a person has put files in the folder, besides archives."""
    ours = {folder / FOLDER, *(group.target for group in groups)}
    found = set(folder.glob("[!.]*")) if folder.is_dir() else set()
    return not found <= ours


def _by_hand(missing: list[str], folder: Path, steps: str, total: int) -> UserError:
    what = f"{', '.join(missing)} in {folder / FOLDER}" if missing else f"files in {folder}"
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = f"{human(shutil.disk_usage(existing).free)} are free"
    space = f"{human(total)} of disk are needed, {free}" if total else free
    return UserError(f"expected: {what}, which must be fetched by hand: {steps} ({space})")


def _bytes_needed(archive: Archive, path: Path) -> int:
    missing = (archive.bytes or 0) - _size(path) - _size(_part(path))
    return max(missing, 0) + (archive.extracted_bytes or 0)


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
    """Download from one address, resuming as long as each attempt brings the file forward."""
    part = _part(path)
    best, failed = _size(part), 0
    while True:
        try:
            _request(archive, url, path)
            break
        except Dropped as dropped:
            log.warning("%s: %s: %s", path.name, url, dropped)
            size = _size(part)
            failed = 1 if size >= best + PROGRESS else failed + 1
            best = max(best, size)
            if failed >= ATTEMPTS:
                raise
            time.sleep(BACKOFF * 2 ** (failed - 1))
    try:
        _verify(archive, part, path)
    except Fault:
        part.unlink()
        raise
    part.replace(path)


def _request(archive: Archive, url: str, path: Path) -> None:
    """Request what is missing of the file, and append it to the part.

    The rest is requested only if the server's validator says that it is of the same file.
    """
    part, note = _part(path), _read(_note(path))
    validator = note.get("validator") if note.get("url") == url else None
    start = _size(part) if validator else 0
    headers = {"Accept-Encoding": "identity"}
    if start and validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    with _get(url, headers) as response:
        status, given = response.status_code, response.headers
        if status == 416 and given.get("Content-Range") == f"bytes */{start}":
            return  # the part is complete
        if status in (206, 416):
            same = _validator(response) in (None, validator)
            if not (same and given.get("Content-Range", "").startswith(f"bytes {start}-")):
                part.unlink(missing_ok=True)
                raise Dropped(f"the server cannot resume at byte {start}")
        elif status != 200:
            raise Fault(f"{status} {response.reason}")
        elif given.get("Content-Type", "").startswith("text/html"):
            raise Fault("a web page instead of the file (is a login needed?)")
        else:
            part.unlink(missing_ok=True)
            start = 0
        total = _total(archive, response, start)
        check_space(part.parent, (total or 0) - start, path.name)
        write_json(_note(path), note | {"url": url, "validator": _validator(response)})
        _append(response, part, total)


def _get(url: str, headers: dict[str, str]) -> "Response":
    import requests
    from urllib3.util import Retry

    session, retries = (
        requests.Session(),
        Retry(
            ATTEMPTS - 1, backoff_factor=BACKOFF, status_forcelist=TRANSIENT, raise_on_status=False
        ),
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retries))
    try:
        return session.get(url, headers=headers, stream=True, timeout=(CONNECT, SILENCE))
    except requests.RequestException as error:
        raise Fault(f"{type(error).__name__}: {_root(error)}") from error


def _validator(response: "Response") -> str | None:
    """What tells this version of the file from others, in a form that If-Range accepts."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _total(archive: Archive, response: "Response", start: int) -> int | None:
    """Size of the whole file; none: the end of a chunked response says that it is complete."""
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else archive.bytes
    if archive.bytes not in (None, total):
        raise Fault(f"wrong size: expected {archive.bytes} bytes, got {total}")
    if total is None and response.headers.get("Transfer-Encoding") != "chunked":
        raise Fault("neither the server nor the settings say how long the file is")
    return total


def _append(response: "Response", part: Path, total: int | None) -> None:
    """Write the bytes as they arrive, so that a kill loses only those in flight."""
    from urllib3.exceptions import HTTPError

    logged = time.monotonic()
    try:
        with part.open("ab") as file:
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                file.flush()
                if time.monotonic() - logged >= EVERY:
                    logged, whole = time.monotonic(), human(total) if total else "unknown"
                    log.info("%s: %s of %s", part.stem, human(file.tell()), whole)
            os.fsync(file.fileno())
    except HTTPError as error:
        raise Dropped(f"dropped after {_size(part)} bytes ({_root(error)})") from error
    if total is not None and _size(part) < total:
        raise Dropped(f"dropped after {_size(part)} of {total} bytes")


def _verify(archive: Archive, file: Path, path: Path) -> None:
    """Raise Fault if a complete file has the wrong size or sha256; note the sha256 of a new one."""
    size, note = _size(file), _note(path)
    if archive.bytes not in (None, size):
        raise Fault(f"wrong size: expected {archive.bytes} bytes, got {size}")
    digest, first = sha256(file), _read(note).get("sha256")
    if archive.sha256 not in (None, digest):
        raise Fault(f"wrong sha256: expected {archive.sha256}, got {digest}")
    if archive.sha256 is None and first not in (None, digest):
        raise Fault(f"wrong sha256: expected {first}, which {note} keeps, got {digest}")
    if first != digest:
        log.info("%s: %s, sha256 %s", path.name, human(size), digest)
        write_json(note, {"bytes": size, "sha256": digest})


def _extract(group: Group) -> None:
    """Extract an archive into a temporary folder, and rename it when it is on the disk."""
    name, target = group.name, group.target
    if target.exists():
        raise UserError(f"{target} was not extracted from {name}; move or delete it")
    temporary = target.with_name(TEMPORARY + target.name)
    shutil.rmtree(temporary, ignore_errors=True)
    log.info("%s: extracting to %s", name, target)
    try:
        temporary.mkdir()
        limit = sum(archive.extracted_bytes or 0 for archive in group.files)
        extract(name, group.paths, temporary, limit or None)
        known = {path.name: _read(_note(path)).get("sha256") for path in group.paths}
        (temporary / MARKER).write_text(json.dumps(known))
        os.sync()  # the marker must not reach the disk before the files
        temporary.rename(target)
    except UserError:
        raise
    except Exception as error:  # readers of archives raise almost anything
        code = getattr(error, "errno", None)
        reason = os.strerror(code) if code else str(error) or type(error).__name__
        remedy = f"if it is damaged, delete {', '.join(map(str, group.paths))} and run again"
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

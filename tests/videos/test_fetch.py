import fcntl
import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from pydantic import ValidationError
from videos.server import DROP, OTHER, serving

from cwm.infra.errors import UserError
from cwm.videos import datasets
from cwm.videos import fetch as module
from cwm.videos.fetch import MARKER, Archive, fetch

NAMES = [f"push/{number}.webm" for number in range(40)]
STEPS = "sign the licence at https://example.org, then save both files"
FILE = "a.zip"


def zipped(names=NAMES, size=8000):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, hashlib.sha256(name.encode()).digest() * (size // 32))
    return out.getvalue()


DATA = zipped(size=7680)  # about the size of CONTENT
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server():
    with serving(DATA) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicker = {"BACKOFF": 0.001, "TIMEOUT": (1, 0.3), "ATTEMPTS": 3, "PROGRESS": 50_000}
    for name, value in quicker.items():
        monkeypatch.setattr(module, name, value)


def archive(server, *ways, sha256=SHA):
    return Archive(FILE, [server.url(way) for way in ways], sha256)


def unknown(server, *ways):
    return archive(server, *ways, sha256=None)


def find(folder):
    return [clip.file for clip in datasets.find(folder, datasets.DatasetConfig())]


def assert_right(folder):
    assert find(folder) == sorted(f"a/{name}" for name in NAMES)
    assert (folder / "archives" / FILE).read_bytes() == DATA
    assert {path.name for path in folder.iterdir()} == {".lock", "a", "archives"}
    assert {path.name for path in (folder / "archives").iterdir()} == {FILE, f"{FILE}.json"}


def bring(folder, data, **note):
    """Put a file in `archives`, or with a note the part that a killed download leaves."""
    (folder / "archives").mkdir(parents=True, exist_ok=True)
    (folder / "archives" / (f"{FILE}.part" if note else FILE)).write_bytes(data)
    if note:
        (folder / f"archives/{FILE}.json").write_text(json.dumps(note))


WAYS = ["good", "no-range", "slow", "drops-once", "drops", "recovers", "moved", "labelled"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("way", [*WAYS, "drops-unmarked", "chunked", "changes", "changes-unsaid"])
def test_fetch_downloads_and_extracts_once(server, tmp_path, way, known):
    wanted = archive(server, way) if known else unknown(server, way)
    fetch([wanted], tmp_path)
    assert_right(tmp_path)
    assert json.loads((tmp_path / "a" / MARKER).read_text()) == {FILE: SHA}
    asked = server.asked.total()
    shutil.rmtree(tmp_path / "a")
    for _ in range(2):
        fetch([wanted], tmp_path)
        assert_right(tmp_path)
    assert server.asked.total() == asked


def test_resume_requests_only_the_missing_bytes(server, tmp_path):
    fetch([archive(server, "drops")], tmp_path)
    assert server.asked["drops"] == 4
    assert server.served["/drops"] == len(DATA)


FAULTS = {
    "forbidden": (1, "403 Forbidden"),
    "missing": (1, "404 Not Found"),
    "broken": (3, "503 Service Unavailable"),
    "wrong": (1, f"wrong sha256: expected {SHA}, got "),
    "short": (1, f"wrong sha256: expected {SHA}, got "),
    "no-length": (1, "the server does not say how long the file is"),
    "stalls": (3, "dropped after 65536 bytes (timed out)"),
    "silent": (3, "timed out"),
    "drops-early": (3, "dropped after 0 "),
    "loops": (31, "TooManyRedirects"),
    "elsewhere": (1, "InvalidSchema"),
    "login": (1, "a web page instead of the file"),
    "nonsense": (3, "ConnectionError"),
}


@pytest.mark.parametrize("way", FAULTS)
def test_fault_of_an_address_is_reported_and_the_mirror_used(server, tmp_path, way):
    asked, reason = FAULTS[way]
    with pytest.raises(UserError) as caught:
        fetch([archive(server, way, "missing")], tmp_path)
    first, second = str(caught.value).split("; ")
    assert f"{server.url(way)}: " in first and reason in first
    assert second == f"{server.url('missing')}: 404 Not Found"
    assert server.asked[way.replace("-", "_")] == asked + (way == "missing")
    assert not (tmp_path / "archives" / FILE).exists()
    fetch([archive(server, way, "good")], tmp_path)
    assert_right(tmp_path)


def test_no_server_is_an_error(server, tmp_path):
    server.server_close()
    with pytest.raises(UserError, match=r"ConnectionError: .*Connection refused"):
        fetch([archive(server, "good")], tmp_path)


def test_progress_is_logged(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "EVERY", 0.02)
    caplog.set_level("INFO")
    fetch([archive(server, "slow")], tmp_path)
    lines = [line for line in caplog.messages if line.startswith(f"{FILE}: ") and " of " in line]
    assert 2 <= len(lines) < 25


FOREIGN = [  # notes on a part that does not belong to the file
    {"url": "another", "validator": '"one"'},
    {"url": "this", "validator": '"x"'},
    {"url": "this", "validator": None},
    {"sha256": None},
]


@pytest.mark.parametrize("note", FOREIGN)
def test_part_of_another_file_is_downloaded_from_scratch(server, tmp_path, note):
    bring(tmp_path, OTHER[:DROP], **note | {"url": server.url({"this": "good"}.get("url", "x"))})
    fetch([unknown(server, "good")], tmp_path)
    assert_right(tmp_path)
    assert server.served["/good"] == len(DATA)


def test_complete_part_is_not_downloaded_again(server, tmp_path):
    bring(tmp_path, DATA, url=server.url("good"), validator='"one"')
    fetch([unknown(server, "good")], tmp_path)
    assert_right(tmp_path)
    assert not server.served


def test_too_long_part_is_downloaded_from_scratch(server, tmp_path):
    bring(tmp_path, DATA + b"more", url=server.url("good"), validator='"one"')
    fetch([unknown(server, "good")], tmp_path)
    assert_right(tmp_path)


def test_damaged_note_costs_the_part_only(server, tmp_path):
    bring(tmp_path, OTHER[:DROP], url="")
    (tmp_path / f"archives/{FILE}.json").write_text('{"url": ')
    fetch([unknown(server, "good")], tmp_path)
    assert_right(tmp_path)


def test_first_sha256_is_kept(server, tmp_path, caplog):
    caplog.set_level("INFO")
    fetch([unknown(server, "good")], tmp_path)
    assert any(line.endswith(f", sha256 {SHA}") for line in caplog.messages)
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "archives" / FILE).unlink()
    with pytest.raises(UserError, match=rf"wrong sha256: expected {SHA}, which .*a\.zip\.json"):
        fetch([unknown(server, "wrong")], tmp_path)
    bring(tmp_path, OTHER)
    with pytest.raises(UserError, match=r"wrong sha256.*; delete it and run again"):
        fetch([unknown(server, "good")], tmp_path)
    assert (tmp_path / "archives" / FILE).read_bytes() == OTHER  # a person's file is not deleted


def test_disk_space_is_checked_before_the_download(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    first, vast = archive(server, "good"), 2 * usage.free
    with pytest.raises(UserError, match=r"needs .* and .* are free in .*; make room"):
        fetch([first], tmp_path, disk_bytes=vast)
    assert not server.asked
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200_000))
    with pytest.raises(UserError, match=r"a\.zip needs 3.*, and 200\.0 kB are free"):
        fetch([first], tmp_path)
    assert not any((tmp_path / "archives").iterdir())
    monkeypatch.undo()
    fetch([first], tmp_path)
    fetch([first, Archive("b.zip", [server.url("good")])], tmp_path, disk_bytes=vast)
    assert (tmp_path / "b").is_dir()  # the first archive is there, so the size says too much


GO = """
import resource, signal, sys
from pathlib import Path
from cwm.videos.fetch import Archive, fetch
if limit := int(sys.argv[3]):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
fetch([Archive("a.zip", [sys.argv[1]])], Path(sys.argv[2]))
"""


def test_full_disk_keeps_the_part(server, tmp_path):
    command = [sys.executable, "-c", GO, server.url("good"), str(tmp_path), "200000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "UserError: cannot write in" in done.stderr and "run again to resume" in done.stderr
    assert (tmp_path / f"archives/{FILE}.part").read_bytes() == DATA[:200_000]
    fetch([unknown(server, "good")], tmp_path)
    assert_right(tmp_path)
    assert server.served["/good"] <= len(DATA) + 200_000


def test_folder_that_cannot_be_made_is_an_error(server, tmp_path):
    (tmp_path / "archives").write_text("in the way")
    with pytest.raises(UserError, match="cannot write in"):
        fetch([archive(server, "good")], tmp_path)


def test_fetch_survives_kills_at_any_moment(server, tmp_path):
    command = [sys.executable, "-c", GO, server.url("slow"), str(tmp_path), "0"]
    part, kept, kills = tmp_path / f"archives/{FILE}.part", 0, 0
    for delay in (0.0, 0.1, 0.2, 0.4):
        child = subprocess.Popen(command)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and child.poll() is None:
            if part.exists() and part.stat().st_size > kept:
                break
            time.sleep(0.002)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        kept = max(kept, part.stat().st_size if part.exists() else 0)
        assert not (tmp_path / "a").exists() or len(find(tmp_path / "a")) == len(NAMES)
    subprocess.run(command, check=True, timeout=60)
    assert kills >= 2
    assert_right(tmp_path)


def test_kill_during_extraction_leaves_no_folder(tmp_path):
    bring(tmp_path, DATA)
    code = (
        "import os; from pathlib import Path; from cwm.videos import fetch\n"
        "fetch.os.sync = lambda: os.kill(os.getpid(), 9)\n"
        f"fetch.fetch([fetch.Archive('a.zip')], Path({str(tmp_path)!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -signal.SIGKILL
    assert (tmp_path / ".tmp-a/push/0.webm").exists()
    (tmp_path / ".tmp-a/push/half.webm").write_text("half")
    fetch([Archive(FILE)], tmp_path)
    assert_right(tmp_path)


def test_files_to_fetch_by_hand_stop_with_the_steps(tmp_path):
    folder = tmp_path / "data/human36m"
    with pytest.raises(UserError) as caught:
        fetch([], folder, STEPS, disk_bytes=50_000_000_000)
    said = str(caught.value)
    assert said.startswith(f"expected: files in {folder}, which must be fetched by hand: {STEPS} (")
    assert "50.0 GB of disk are needed, " in said and said.endswith(" are free)")
    archives = [Archive("a.zip"), Archive("b.zip")]
    with pytest.raises(UserError, match=rf"a\.zip, b\.zip in {folder}/archives, which must be"):
        fetch(archives, folder, STEPS)
    assert not folder.exists()
    bring(folder, DATA)
    (folder / ".DS_Store").write_text("")
    with pytest.raises(UserError, match=r"expected: b\.zip in"):
        fetch(archives, folder, STEPS)


def test_licence_is_logged_before_the_download(server, tmp_path, caplog):
    caplog.set_level("INFO")
    fetch([unknown(server, "good")], tmp_path, STEPS)
    said = caplog.messages
    assert said.index(STEPS) < next(i for i, line in enumerate(said) if line.startswith("a.zip: "))


def test_archive_fetched_by_hand_is_verified_and_extracted(tmp_path):
    bring(tmp_path, DATA)
    with pytest.raises(UserError, match=r"wrong sha256: expected 00.*; delete it and run again"):
        fetch([Archive(FILE, sha256="0" * 64)], tmp_path, STEPS)
    fetch([Archive(FILE)], tmp_path, STEPS)
    assert_right(tmp_path)
    (tmp_path / "archives" / FILE).unlink()  # it is not needed any more
    fetch([Archive(FILE)], tmp_path, STEPS)
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(UserError, match="by hand"):
        fetch([Archive(FILE)], tmp_path, STEPS)


def test_files_extracted_by_hand_are_used_as_they_are(tmp_path):
    (tmp_path / "push").mkdir()
    (tmp_path / "push/1.webm").write_text("x")
    fetch([Archive(FILE)], tmp_path, STEPS)
    fetch([], tmp_path, STEPS)
    assert find(tmp_path) == ["push/1.webm"]
    assert [path.name for path in tmp_path.iterdir()] == ["push"]


def test_folder_of_another_origin_is_not_overwritten(tmp_path):
    bring(tmp_path, DATA)
    (tmp_path / "a").mkdir()
    for marker in (None, "{", "[]", '{"b.zip": "0"}', json.dumps({FILE: "1" * 64})):
        if marker:
            (tmp_path / "a" / MARKER).write_text(marker)
        with pytest.raises(UserError, match=r"/a was not extracted from a\.zip"):
            fetch([Archive(FILE, sha256=SHA)], tmp_path)
    fetch([Archive(FILE)], tmp_path)  # without a sha256 in the settings the last one is valid


@pytest.mark.parametrize("names", [("a.zip", "a.tgz"), ("a.zip", "a.zip"), ("archives.zip",)])
def test_two_archives_for_one_folder_are_refused(tmp_path, names):
    with pytest.raises(UserError, match="two archives need the same place"):
        fetch([Archive(name) for name in names], tmp_path)


def test_damaged_archive_is_an_error_and_leaves_no_folder(tmp_path):
    bring(tmp_path, DATA[:-100])
    with pytest.raises(UserError, match=r"cannot extract a\.zip: .*damaged, delete .*run again"):
        fetch([Archive(FILE)], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "archives"}


def test_full_disk_during_extraction_keeps_the_archive(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    bring(tmp_path, DATA)
    monkeypatch.setattr(module, "extract", full)
    with pytest.raises(UserError, match=r"cannot extract a\.zip: No space left on device; run ag"):
        fetch([Archive(FILE)], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "archives"}
    assert (tmp_path / "archives" / FILE).read_bytes() == DATA


def test_two_at_once_are_refused(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is fetching"):
            fetch([Archive(FILE, ["http://127.0.0.1:9/a.zip"])], tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"file": "../a.zip"},
        {"file": "b/a.zip"},
        {"file": ".a.zip"},
        {"file": "a\n.zip"},
        {"file": "a.exe"},
        {"file": "part-00"},
        {"file": "part-00", "join": "whole.zip"},
        {"file": "part-00.part", "join": "whole.tgz"},
        {"file": "a.zip", "urls": ["ftp://host/a.zip"]},
        {"file": "a.zip", "urls": ["file:///etc/passwd"]},
        {"file": "a.zip", "urls": ["https://"]},
        {"file": "a.zip", "sha256": "abc"},
        {"file": "a.zip", "sha1": "abc"},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        Archive(**wrong)

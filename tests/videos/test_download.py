import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError
from videos.server import CONTENT, DROP, OTHER, serving

from cwm.infra.errors import UserError
from cwm.videos import download as module
from cwm.videos.download import Archive, checksum, download

SHA = hashlib.sha256(CONTENT).hexdigest()
FILE = "a.zip"


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in (("BACKOFF", 0.001), ("SILENCE", 0.3), ("TRIES", 3), ("PROGRESS", 50_000)):
        monkeypatch.setattr(module, name, value)


def archive(server, *ways, **known):
    known = {"bytes": len(CONTENT), "sha256": SHA} | known
    return Archive(FILE, [server.url(way) for way in ways], **known)


def unknown(server, *ways):
    return archive(server, *ways, bytes=None, sha256=None)


def there(folder):
    return {path.name: path for path in (folder / "archives").iterdir()}


def assert_right(folder):
    assert set(there(folder)) == {FILE, f"{FILE}.json"}
    assert there(folder)[FILE].read_bytes() == CONTENT


def begin(folder, data, **about):
    """Leave what a killed download leaves."""
    (folder / "archives").mkdir()
    (folder / f"archives/{FILE}.part").write_bytes(data)
    if about:
        (folder / f"archives/{FILE}.part.json").write_text(json.dumps(about))


WAYS = ["good", "no-range", "slow", "drops-once", "drops", "recovers", "moved", "labelled"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("way", [*WAYS, "drops-unmarked", "chunked", "changes", "changes-unsaid"])
def test_the_file_arrives(server, tmp_path, way, known):
    wanted = archive(server, way) if known else unknown(server, way)
    download([wanted], tmp_path)
    assert_right(tmp_path)
    assert checksum(wanted, tmp_path) == SHA
    asked = server.asked.total()
    download([wanted], tmp_path)
    assert server.asked.total() == asked


def test_what_was_there_is_not_asked_for_again(server, tmp_path):
    download([archive(server, "drops")], tmp_path)
    assert server.asked["drops"] == 4
    assert server.served["/drops"] == len(CONTENT)


FAULTS = {
    "forbidden": (1, "403 Forbidden"),
    "missing": (1, "404 Not Found"),
    "broken": (3, "503 Service Unavailable"),
    "wrong": (1, f"wrong sha256: expected {SHA}, got {hashlib.sha256(OTHER).hexdigest()}"),
    "short": (1, "wrong size: expected 307200 bytes, got 307199"),
    "stalls": (3, "timed out: silent for 0.3 s"),
    "silent": (3, "timed out"),
    "drops-early": (3, "dropped"),
    "loops": (31, "TooManyRedirects"),
    "elsewhere": (1, "InvalidSchema"),
    "login": (1, "a web page instead of the file"),
    "nonsense": (3, "no connection"),
}


@pytest.mark.parametrize("way", FAULTS)
def test_a_bad_address_is_named_and_the_mirror_tried(server, tmp_path, way):
    asked, reason = FAULTS[way]
    with pytest.raises(UserError) as caught:
        download([archive(server, way, "missing")], tmp_path)
    first, second = str(caught.value).split("; ")
    assert f"{server.url(way)}: " in first and reason in first
    assert second == f"{server.url('missing')}: 404 Not Found"
    assert server.asked[way.replace("-", "_")] == asked + (way == "missing")
    assert FILE not in there(tmp_path)
    download([archive(server, way, "good")], tmp_path)
    assert_right(tmp_path)


def test_no_server_at_all(server, tmp_path):
    server.server_close()
    with pytest.raises(UserError, match=r"no connection \(.*Connection refused\)"):
        download([archive(server, "good")], tmp_path)
    with pytest.raises(UserError, match="no address is known"):
        download([Archive(FILE)], tmp_path)


def test_a_trickle_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SLOW", (0.2, 1000))
    monkeypatch.setattr(module, "EVERY", 0.1)
    with pytest.raises(UserError, match=r"slower than 1000 bytes in 0\.2 s"):
        download([archive(server, "trickle")], tmp_path)


def test_progress_is_told_now_and_then(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "EVERY", 0.02)
    caplog.set_level("INFO")
    download([archive(server, "slow")], tmp_path)
    lines = [line for line in caplog.messages if "/s" in line]
    assert 2 <= len(lines) < 19
    assert lines[0].startswith("a.zip: ") and " of 307.2 kB, " in lines[0]


def test_without_a_length_it_is_not_taken_for_whole(server, tmp_path):
    with pytest.raises(UserError, match="does not say how long the file is"):
        download([unknown(server, "no-length")], tmp_path)
    download([archive(server, "no-length", sha256=None)], tmp_path)
    assert_right(tmp_path)


def test_a_mirror_goes_on_with_what_the_primary_gave(server, tmp_path):
    download([archive(server, "stalls", "good")], tmp_path)
    assert_right(tmp_path)
    assert server.served["/good"] == len(CONTENT) - DROP


def test_parts_of_different_files_are_not_kept(server, tmp_path):
    begin(tmp_path, OTHER[:DROP], url=server.url("elsewhere"), mark='"x"', total=len(CONTENT))
    download([archive(server, "good")], tmp_path)
    assert_right(tmp_path)
    assert server.asked["good"] == 2


def test_a_part_of_unknown_origin_is_fetched_anew(server, tmp_path):
    begin(tmp_path, OTHER[:DROP])
    download([unknown(server, "good")], tmp_path)
    assert_right(tmp_path)
    assert server.served["/good"] == len(CONTENT)


@pytest.mark.parametrize("known", [True, False])
def test_a_part_that_is_whole_needs_no_server(server, tmp_path, known):
    begin(tmp_path, CONTENT, url=server.url("good"), mark='"one"', total=len(CONTENT))
    download([archive(server, "good") if known else unknown(server, "good")], tmp_path)
    assert_right(tmp_path)
    assert not server.asked


@pytest.mark.parametrize("total", [None, len(CONTENT) + 9])
def test_a_part_that_is_too_long_is_fetched_anew(server, tmp_path, total):
    begin(tmp_path, CONTENT + b"more", url=server.url("good"), mark='"one"', total=total)
    download([unknown(server, "good")], tmp_path)
    assert_right(tmp_path)


def test_a_note_that_is_damaged_costs_the_part_only(server, tmp_path):
    begin(tmp_path, OTHER[:DROP])
    (tmp_path / f"archives/{FILE}.part.json").write_text('{"url": ')
    download([unknown(server, "good")], tmp_path)
    assert_right(tmp_path)


def test_the_first_checksum_holds(server, tmp_path, caplog):
    caplog.set_level("INFO")
    download([unknown(server, "good")], tmp_path)
    assert f"a.zip: 307.2 kB, sha256 {SHA}" in caplog.messages
    there(tmp_path)[FILE].unlink()
    with pytest.raises(UserError, match=rf"wrong sha256: {SHA} at first, as .*a\.zip\.json keeps"):
        download([unknown(server, "wrong")], tmp_path)
    there(tmp_path).get(FILE, tmp_path / f"archives/{FILE}").write_bytes(OTHER)
    with pytest.raises(UserError, match=r"wrong sha256.*; delete it and run again"):
        download([unknown(server, "good")], tmp_path)
    assert there(tmp_path)[FILE].read_bytes() == OTHER  # a person's file is theirs to delete


def test_a_kill_right_after_a_file_got_its_name_leaves_nothing(server, tmp_path):
    begin(tmp_path, b"", url=server.url("good"), mark=None, total=len(CONTENT))
    (tmp_path / f"archives/{FILE}.part").unlink()
    (tmp_path / "archives" / FILE).write_bytes(CONTENT)
    download([archive(server, "good")], tmp_path)
    assert_right(tmp_path)
    assert not server.asked


def test_a_disk_that_is_too_small_is_noticed_before(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    with pytest.raises(UserError, match=r"a\.zip needs 307\.2 kB, and 300\.0 kB are free"):
        download([unknown(server, "good")], tmp_path)
    assert not there(tmp_path)


FULL = """
import resource, signal, sys
from pathlib import Path
from cwm.videos.download import Archive, download
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
download([Archive("a.zip", [sys.argv[1]])], Path(sys.argv[2]))
"""


def test_a_disk_that_fills_keeps_what_is_there(server, tmp_path):
    command = [sys.executable, "-c", FULL, server.url("good"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "UserError: cannot write in" in done.stderr and "goes on from it" in done.stderr
    assert there(tmp_path)["a.zip.part"].read_bytes() == CONTENT[:200_000]
    download([unknown(server, "good")], tmp_path)
    assert_right(tmp_path)


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "archives").write_text("in the way")
    with pytest.raises(UserError, match="cannot write in"):
        download([archive(server, "good")], tmp_path)


GO = """
import sys
from pathlib import Path
from cwm.videos.download import Archive, download
download([Archive("a.zip", [sys.argv[1]])], Path(sys.argv[2]))
"""


def test_a_kill_costs_the_bytes_in_flight(server, tmp_path):
    command = [sys.executable, "-c", GO, server.url("slow"), str(tmp_path)]
    part, kept = tmp_path / f"archives/{FILE}.part", 0
    for _ in range(2):
        child = subprocess.Popen(command)
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size > kept) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        kept = part.stat().st_size
    time.sleep(0.2)  # until the server has noticed
    before = server.served["/slow"]
    subprocess.run(command, check=True, timeout=60)
    assert_right(tmp_path)
    assert 0 < kept < len(CONTENT)
    assert server.served["/slow"] - before == len(CONTENT) - kept


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
        {"file": "a.zip", "bytes": 0},
        {"file": "a.zip", "sha1": "abc"},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValidationError):
        Archive(**wrong)

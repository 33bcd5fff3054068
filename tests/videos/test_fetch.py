import fcntl
import hashlib
import io
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from videos.server import serving

from cwm.infra.errors import UserError
from cwm.videos import datasets, extract
from cwm.videos.download import Archive
from cwm.videos.fetch import fetch

NAMES = [f"push/{number}.webm" for number in range(40)]


def find(folder):
    return [clip.file for clip in datasets.find(folder, datasets.DatasetConfig())]


def zipped(names=NAMES, size=8000):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, hashlib.sha256(name.encode()).digest() * (size // 32))
    return out.getvalue()


STEPS = "sign the licence at https://example.org, then save both files"


def by_hand(name, **settings):
    return Archive(name, bytes=19_400_000_000, **settings)


def test_what_only_a_person_can_get_stops_with_the_steps(tmp_path):
    folder = tmp_path / "data/human36m"
    with pytest.raises(UserError) as caught:
        fetch([], folder, STEPS, disk_bytes=50_000_000_000)
    said = str(caught.value)
    assert said.startswith(f"expected: files in {folder}, which must be fetched by hand: {STEPS} (")
    assert "50.0 GB of disk are needed, " in said and said.endswith(" are free)")
    archives = [by_hand("a.zip"), by_hand("b.zip")]
    with pytest.raises(UserError, match=rf"a\.zip, b\.zip in {folder}/archives, .*38\.8 GB of"):
        fetch(archives, folder, STEPS)
    assert not folder.exists()
    (folder / "archives").mkdir(parents=True)
    (folder / "archives/a.zip").write_bytes(zipped())
    (folder / ".DS_Store").write_text("")
    with pytest.raises(UserError, match=r"expected: b\.zip in"):
        fetch(archives, folder, STEPS)


def test_the_licence_is_said_before_a_download(tmp_path, caplog):
    data = zipped()
    with serving(data) as server, caplog.at_level("INFO"):
        fetch([Archive("a.zip", [server.url("good")])], tmp_path, STEPS)
    said = [record.getMessage() for record in caplog.records]
    assert said.index(STEPS) < next(i for i, line in enumerate(said) if line.startswith("a.zip: "))
    assert find(tmp_path) == sorted(f"a/{name}" for name in NAMES)


def test_what_a_person_brought_is_checked_and_extracted(tmp_path):
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/a.zip").write_bytes(zipped())
    with pytest.raises(UserError, match=r"wrong sha256: expected 00.*; delete it and run again"):
        fetch([Archive("a.zip", sha256="0" * 64)], tmp_path, STEPS)
    for _ in range(2):
        fetch([Archive("a.zip")], tmp_path, STEPS)
        assert find(tmp_path) == sorted(f"a/{name}" for name in NAMES)
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "archives/a.zip").unlink()
    with pytest.raises(UserError, match="by hand"):
        fetch([Archive("a.zip")], tmp_path, STEPS)


def test_what_a_person_extracted_is_taken_as_it_is(tmp_path):
    (tmp_path / "push").mkdir()
    (tmp_path / "push/1.webm").write_text("x")
    fetch([by_hand("a.zip")], tmp_path, STEPS)
    fetch([], tmp_path, STEPS)
    assert find(tmp_path) == ["push/1.webm"]
    assert [path.name for path in tmp_path.iterdir()] == ["push"]


def test_room_is_made_sure_of_before_anything_is_asked_for(tmp_path):
    size = shutil.disk_usage(tmp_path).free
    vast = Archive("a.zip", ["http://127.0.0.1:9/a.zip"], bytes=9, extracted_bytes=2 * size)
    with pytest.raises(UserError, match=r"needs .* and .* are free in .*; make room"):
        fetch([vast], tmp_path)


def test_two_at_once_do_not_meet(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is filling"):
            fetch([Archive("a.zip", ["http://127.0.0.1:9/a.zip"])], tmp_path)


GO = """
import sys
from pathlib import Path
from cwm.videos.download import Archive
from cwm.videos.fetch import fetch
fetch([Archive("a.zip", [sys.argv[1]], sha256=sys.argv[2])], Path(sys.argv[3]))
"""


def test_kills_at_any_moment_cost_nothing(tmp_path):
    data = zipped(size=16_000)
    with serving(data) as server:
        sha = hashlib.sha256(data).hexdigest()
        command = [sys.executable, "-c", GO, server.url("slow"), sha, str(tmp_path)]
        kills = 0
        for delay in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
            child = subprocess.Popen(command)
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
            assert not (tmp_path / "a").exists() or len(find(tmp_path / "a")) == len(NAMES)
        subprocess.run(command, check=True, timeout=60)
    assert kills >= 2
    assert find(tmp_path) == sorted(f"a/{name}" for name in NAMES)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "a", "archives"}


def test_a_kill_in_the_middle_of_extracting(tmp_path):
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/a.zip").write_bytes(zipped())
    code = (
        "import os, shutil; from pathlib import Path; from cwm.videos import extract\n"
        "from cwm.videos.download import Archive; from cwm.videos.fetch import fetch\n"
        "extract.shutil.copyfileobj = lambda *_: os.kill(os.getpid(), 9)\n"
        f"fetch([Archive('a.zip')], Path({str(tmp_path)!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -signal.SIGKILL
    assert (tmp_path / ".a.part/push/0.webm").exists()
    fetch([Archive("a.zip")], tmp_path)
    assert find(tmp_path) == sorted(f"a/{name}" for name in NAMES)
    assert extract.is_extracted(extract.groups([Archive("a.zip")])[0], tmp_path)

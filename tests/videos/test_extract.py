import bz2
import gzip
import io
import json
import lzma
import os
import random
import stat
import struct
import tarfile
import zipfile

import pytest

from cwm.infra.errors import UserError
from cwm.videos import extract as module
from cwm.videos.download import Archive, download
from cwm.videos.extract import MARKER, extract

FILES = {
    "videos/1.webm": random.Random(1).randbytes(3000),
    "videos/two/2.webm": b"two" * 5,
    "labels.json": b"{}",
}
TARS = {
    ".tar": bytes,
    ".tgz": gzip.compress,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}


def tar(*members, files=FILES, **options):
    """The bytes of a tar archive: extra members are (TarInfo, content), or a name and content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as archive:
        for member, content in [*files.items(), *members]:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def zipped(*members, files=FILES, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for member, content in [*files.items(), *members]:
            archive.writestr(member, content)
    return out.getvalue()


def moded(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def put(folder, name, data, **settings):
    (folder / "archives").mkdir(parents=True, exist_ok=True)
    (folder / "archives" / name).write_bytes(data)
    archive = Archive(name, **settings)
    download([archive], folder)  # there already: takes down its checksum
    return archive


def tree(folder):
    found = (path for path in folder.rglob("*") if not path.is_dir() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def assert_nothing_came(tmp_path, folder):
    assert [path.name for path in folder.iterdir()] == ["archives"]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


KINDS = {**{suffix: press(tar()) for suffix, press in TARS.items()}, ".zip": zipped()}


@pytest.mark.parametrize("suffix", KINDS)
def test_an_archive_becomes_a_folder_once(tmp_path, suffix):
    archive = put(tmp_path, f"some.v2{suffix}", KINDS[suffix])
    (tmp_path / ".some.v2.part").mkdir()  # as a kill leaves it
    (tmp_path / ".some.v2.part/half.webm").write_text("half")
    extract([archive], tmp_path)
    assert tree(tmp_path / "some.v2") == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archives", "some.v2"]
    (tmp_path / "archives" / archive.file).unlink()  # it is not needed any more
    before = (tmp_path / "some.v2").stat().st_mtime_ns
    extract([archive], tmp_path)
    assert (tmp_path / "some.v2").stat().st_mtime_ns == before


@pytest.mark.parametrize("dressed", ["plain", "zip", "two to a zip"])
def test_parts_are_joined(tmp_path, dressed):
    data = gzip.compress(tar(("big.webm", random.Random(2).randbytes(50_000))))
    parts = [data[begin : begin + 10_000] for begin in range(0, len(data), 10_000)]
    named = [(f"v2/set-{number:02}", part) for number, part in enumerate(parts)]
    if dressed == "plain":
        files = parts
    else:
        step = 1 if dressed == "zip" else 2
        pairs = [named[i : i + step][::-1] for i in range(0, len(named), step)]
        files = [zipped(*pair, files={}) for pair in pairs]
    archives = [put(tmp_path, f"s-{i:02}.zip", f, join="set.tgz") for i, f in enumerate(files)]
    extract(archives, tmp_path)
    assert set(tree(tmp_path / "set")) == {*FILES, "big.webm"}
    (tmp_path / "set" / MARKER).unlink()
    (tmp_path / "set").rename(tmp_path / "old")
    with pytest.raises(UserError, match=r"set\.tgz is damaged.*delete .*s-00\.zip, .*run again"):
        extract([archives[0], *archives[:0:-1]], tmp_path)


def test_folders_of_another_origin_are_left_alone(tmp_path):
    archive = put(tmp_path, "a.zip", zipped())
    (tmp_path / "a").mkdir()
    for note in (None, "{", "[]", '{"b.zip": "0"}'):
        if note:
            (tmp_path / "a" / MARKER).write_text(note)
        with pytest.raises(UserError, match=r"/a is there, but not made of a\.zip"):
            extract([archive], tmp_path)
    other = Archive("a.zip", sha256="0" * 64)
    (tmp_path / "a" / MARKER).write_text(json.dumps({"a.zip": "1" * 64}))
    extract([archive], tmp_path)
    with pytest.raises(UserError, match="not made of"):
        extract([other], tmp_path)


def test_two_archives_for_one_folder_are_refused(tmp_path):
    for names in (("a.zip", "a.tgz"), ("a.zip", "a.zip"), ("archives.zip",)):
        with pytest.raises(UserError, match="two archives called"):
            extract([Archive(name) for name in names], tmp_path)


OUTSIDE = {
    "../out": "leads out",
    "a/../../out": "leads out",
    "/tmp/out": "leads out",
    "..": "leads out",
    "..\\out": "forbidden character",
    "C:\\out": "forbidden character",
    "a\x1b[2Jb": "forbidden character",
    "a" * 256: "too long a name",
    "a/" * 600 + "b": "too long a name",
    ".": "no name of a file",
    "LABELS.json": "meets another",
    "labels.json": "meets another",
    "labels.json/more": "meets another",
    "Videos/3.webm": "meets another",
    "videos": "meets another",
    MARKER: "meets another",
}
MEMBERS = {
    "symlink": special("link", tarfile.SYMTYPE, "/etc/passwd"),
    "symlink to a folder": special("link", tarfile.SYMTYPE, ".."),
    "hardlink": special("link", tarfile.LNKTYPE, "labels.json"),
    "pipe": special("pipe", tarfile.FIFOTYPE),
    "disk": special("disk", tarfile.BLKTYPE),
    "tty": special("tty", tarfile.CHRTYPE),
    "unheard of": special("odd", b"Z"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_names_that_lead_elsewhere_or_meet(tmp_path, suffix, name):
    folder = tmp_path / "set"
    press = zipped if suffix == ".zip" else lambda *members: gzip.compress(tar(*members))
    archive = put(folder, f"bad{suffix}", press((name, b"evil")))
    with pytest.raises(UserError, match=rf"bad\{suffix} is not extracted: '.*{OUTSIDE[name]}"):
        extract([archive], folder)
    assert_nothing_came(tmp_path, folder)


@pytest.mark.parametrize("kind", MEMBERS)
def test_tar_members_that_are_no_files(tmp_path, kind):
    folder = tmp_path / "set"
    with pytest.raises(UserError, match="is a link, a device or a sparse file"):
        extract([put(folder, "bad.tar", tar(MEMBERS[kind], ("link", b"evil")))], folder)
    assert_nothing_came(tmp_path, folder)


def test_sparse_files_are_refused(tmp_path):
    info = tarfile.TarInfo("big")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50)}
    bad = tar((info, b"x"), format=tarfile.PAX_FORMAT)
    with pytest.raises(UserError, match="sparse file"):
        extract([put(tmp_path, "bad.tar", bad)], tmp_path)


def encrypted():
    data = bytearray(zipped(files={"a": b"b" * 20}))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


ODD_ZIPS = {
    "link": (zipped((moded("link", stat.S_IFLNK | 0o777), "/etc/passwd")), "link or device"),
    "pipe": (zipped((moded("pipe", stat.S_IFIFO), "")), "link or device"),
    "locked": (encrypted(), "encrypted"),
    "rare": (zipped(method=zipfile.ZIP_LZMA), "rare way"),
}


@pytest.mark.parametrize("kind", ODD_ZIPS)
def test_zip_members_that_cannot_be_taken(tmp_path, kind):
    data, reason = ODD_ZIPS[kind]
    folder = tmp_path / "set"
    with pytest.raises(UserError, match=rf"bad\.zip is not extracted: .*{reason}"):
        extract([put(folder, "bad.zip", data)], folder)
    assert_nothing_came(tmp_path, folder)


def overlapping(copies=100):
    """Many names for the same bytes of a zip file."""
    data = zipped(files={"a": bytes(50_000)})
    start = data.index(b"PK\1\2")
    entry = data[start : data.index(b"PK\5\6")]
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, copies, copies, len(entry) * copies, start, 0)
    return data[:start] + entry * copies + end


ZEROS = {"zeros": bytes(5_000_000)}
LONG = special("x" * 20_000, tarfile.REGTYPE)
BOMBS = {
    "zip": ("bad.zip", zipped(files=ZEROS), "out of proportion"),
    "many a zip": (
        "bad.zip",
        zipped(files={str(i): bytes(90_000) for i in range(9)}),
        "more than 1",
    ),
    "overlapping": ("bad.zip", overlapping(), "meets another|holds more|damaged"),
    "gz": ("bad.tgz", gzip.compress(tar(files=ZEROS)), "holds more than 1"),
    "xz": ("bad.tar.xz", lzma.compress(tar(files=ZEROS)), "holds more than 1"),
    "endless": ("bad.tgz", gzip.compress(tar() + bytes(5_000_000)), "does not end"),
    "members": ("bad.tar", tar(files={str(i): b"x" for i in range(60)}), "more than 50 files"),
    "long name": ("bad.tar", tar(LONG, format=tarfile.GNU_FORMAT), "header is too long"),
    "pax": ("bad.tar", tar(LONG, format=tarfile.PAX_FORMAT), "header is too long"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(module, "SMALL", 100_000)
    monkeypatch.setattr(module, "MEMBERS", 50)
    name, data, reason = BOMBS[kind]
    folder = tmp_path / "set"
    with pytest.raises(UserError, match=reason):
        extract([put(folder, name, data)], folder)
    assert_nothing_came(tmp_path, folder)


def test_extracted_bytes_say_how_much_may_come(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 100_000)
    data = gzip.compress(tar(files=ZEROS))
    with pytest.raises(UserError, match=r"more than 4\.0 MB"):
        extract([put(tmp_path, "a.tgz", data, extracted_bytes=4_000_000)], tmp_path)
    extract([put(tmp_path, "a.tgz", data, extracted_bytes=5_000_000)], tmp_path)
    assert tree(tmp_path / "a") == ZEROS


def test_a_negative_size_does_not_go_round_in_circles(tmp_path):
    data = bytearray(tar())
    data[124:136] = b"\xff" * 10 + b"\xfe\x00"
    total = sum(data[:148]) + 8 * 32 + sum(data[156:512])
    data[148:156] = b"%06o\0 " % total
    with pytest.raises(UserError, match=r"a\.tar is damaged"):
        extract([put(tmp_path, "a.tar", bytes(data))], tmp_path)


@pytest.mark.parametrize("suffix", KINDS)
def test_truncated_archives(tmp_path, suffix):
    data = KINDS[suffix]
    if suffix == ".tar":
        data = data[: tar_end(data)]  # what follows is padding
    for end in [*range(0, len(data), 97), len(data) - 1]:
        folder = tmp_path / str(end) / "set"
        with pytest.raises(UserError, match=r"is damaged .*delete .* and run again"):
            extract([put(folder, f"a{suffix}", data[:end])], folder)
        assert_nothing_came(folder.parent, folder)


def tar_end(data):
    """Where the zeros that end a tar archive have been seen."""
    return len(data.rstrip(b"\0")) // 512 * 512 + 1024


@pytest.mark.parametrize("suffix", KINDS)
def test_damage_of_any_kind(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(os, "sync", lambda: None)
    rng, right = random.Random(0), 0
    for number in range(120):
        data = bytearray(KINDS[suffix])
        for _ in range(rng.choice((1, 1, 3, 30))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if number % 10 == 0:
            data = rng.randbytes(rng.randrange(2000))
        folder = tmp_path / str(number) / "set"
        archive = put(folder, f"a{suffix}", bytes(data))
        try:
            extract([archive], folder)
            right += 1  # what says nothing of the content may differ
            assert {path.name for path in folder.iterdir()} == {"archives", "a"}
        except UserError:
            assert_nothing_came(folder.parent, folder)
    assert right < 60 or suffix == ".tar"  # it has no checksums of content


def test_a_full_disk_and_missing_archives(tmp_path, monkeypatch):
    archive = put(tmp_path, "a.zip", zipped())

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.shutil, "copyfileobj", full)
        with pytest.raises(UserError, match=r"cannot extract a\.zip: No space left.* is kept"):
            extract([archive], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["archives"]
    with pytest.raises(UserError, match=r"cannot extract b\.zip: No such file"):
        extract([Archive("b.zip")], tmp_path)
    assert (tmp_path / "archives/a.zip").exists()

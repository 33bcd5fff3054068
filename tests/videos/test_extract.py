import bz2
import gzip
import io
import lzma
import random
import stat
import struct
import tarfile
import zipfile

import pytest

from cwm.infra.errors import UserError
from cwm.videos import extract as module
from cwm.videos.extract import extract

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


def unpack(folder, name, *parts, limit=None):
    """Extract an archive of these parts to `folder/out`; returns its files, nothing else comes."""
    (folder / "out").mkdir(parents=True)
    paths = [folder / f"part-{number}" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
    try:
        extract(name, paths, folder / "out", limit)
    finally:
        assert {path.name for path in folder.iterdir()} == {"out", *(path.name for path in paths)}
    found = [path for path in folder.joinpath("out").rglob("*") if not path.is_dir()]
    return {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in found}


KINDS = {**{suffix: press(tar()) for suffix, press in TARS.items()}, ".zip": zipped()}


@pytest.mark.parametrize("suffix", KINDS)
def test_every_file_is_extracted(tmp_path, suffix):
    assert unpack(tmp_path, f"some.v2{suffix}", KINDS[suffix]) == FILES


@pytest.mark.parametrize("dressed", ["plain", "zip", "two to a zip"])
def test_parts_are_joined(tmp_path, dressed):
    content = random.Random(2).randbytes(50_000)
    data = gzip.compress(tar(("big.webm", content)))
    parts = [data[begin : begin + 10_000] for begin in range(0, len(data), 10_000)]
    if dressed != "plain":
        named = [(f"v2/set-{number:02}", part) for number, part in enumerate(parts)]
        step = 1 if dressed == "zip" else 2
        pairs = [named[i : i + step][::-1] for i in range(0, len(named), step)]
        parts = [zipped(*pair, files={}) for pair in pairs]
    assert unpack(tmp_path / "right", "set.tgz", *parts) == FILES | {"big.webm": content}
    with pytest.raises(Exception):  # noqa: B017 - whatever the reader raises
        unpack(tmp_path / "wrong", "set.tgz", parts[0], *parts[:0:-1])


UNSAFE = {
    "../out": "leads out",
    "a/../../out": "leads out",
    "/tmp/out": "leads out",
    "..": "leads out",
    "..\\out": "forbidden character",
    "C:\\out": "forbidden character",
    "a\x1b[2Jb": "forbidden character",
    "a/" * 600 + "b": "too long a path",
    "LABELS.json": "occurs twice",
    "./labels.json": "occurs twice",
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


IMPOSSIBLE = ["a" * 256, ".", "labels.json/more", "videos"]
SUFFIXES = {".zip": zipped, ".tgz": lambda *members: gzip.compress(tar(*members))}


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unsafe_names_are_refused(tmp_path, suffix, name):
    data = SUFFIXES[suffix]((name, b"evil"))
    with pytest.raises(UserError, match=rf"bad\{suffix} is not extracted: .*{UNSAFE[name]}"):
        unpack(tmp_path / "set", f"bad{suffix}", data)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("name", IMPOSSIBLE)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_cannot_be_written_are_errors(tmp_path, suffix, name):
    with pytest.raises((OSError, UserError)):
        unpack(tmp_path, f"bad{suffix}", SUFFIXES[suffix]((name, b"evil")))


@pytest.mark.parametrize("kind", MEMBERS)
def test_tar_members_other_than_files_are_refused(tmp_path, kind):
    with pytest.raises(UserError, match="is a link, a device or a sparse file"):
        unpack(tmp_path, "bad.tar", tar(MEMBERS[kind], ("link", b"evil")))


def test_sparse_files_are_refused(tmp_path):
    info = tarfile.TarInfo("big")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50)}
    with pytest.raises(UserError, match="sparse file"):
        unpack(tmp_path, "bad.tar", tar((info, b"x"), format=tarfile.PAX_FORMAT))


def encrypted():
    data = bytearray(zipped(files={"a": b"b" * 20}))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO])
def test_zip_members_other_than_files_are_refused(tmp_path, kind):
    with pytest.raises(UserError, match="is a link, a device"):
        unpack(tmp_path, "bad.zip", zipped((moded("link", kind | 0o777), "/etc/passwd")))


def test_encrypted_zip_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="encrypted"):
        unpack(tmp_path, "bad.zip", encrypted())


def overlapping(copies=100):
    """Many names for the same bytes of a zip file."""
    data = zipped(files={"a": bytes(50_000)})
    start = data.index(b"PK\1\2")
    entry = data[start : data.index(b"PK\5\6")]
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, copies, copies, len(entry) * copies, start, 0)
    return data[:start] + entry * copies + end


ZEROS = {"zeros": bytes(5_000_000)}
LONG = special("x" * 20_000, tarfile.REGTYPE)
MANY = {str(number): bytes(90_000) for number in range(90)}
BOMBS = {
    "zip": ("bad.zip", zipped(files=ZEROS), "exceeds the limit"),
    "many a zip": ("bad.zip", zipped(files=MANY), "exceeds the limit"),
    "overlapping": ("bad.zip", overlapping(), "occurs twice"),
    "gz": ("bad.tgz", gzip.compress(tar(files=ZEROS)), "exceeds the limit"),
    "xz": ("bad.tar.xz", lzma.compress(tar(files=ZEROS)), "exceeds the limit"),
    "members": ("bad.tar", tar(files={str(i): b"x" for i in range(160)}), "more than 100 files"),
    "long name": ("bad.tar", tar(LONG, format=tarfile.GNU_FORMAT), "header announces"),
    "pax": ("bad.tar", tar(LONG, format=tarfile.PAX_FORMAT), "header announces"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(module, "MIN_LIMIT", 100_000)
    monkeypatch.setattr(module, "MAX_MEMBERS", 100)
    name, data, reason = BOMBS[kind]
    with pytest.raises((UserError, tarfile.ReadError), match=reason):
        unpack(tmp_path, name, data)


def test_limit_says_how_much_may_come(tmp_path):
    data = gzip.compress(tar(files=ZEROS))
    with pytest.raises(UserError, match=r"the limit of 4\.0 MB"):
        unpack(tmp_path / "less", "a.tgz", data, limit=4_000_000)
    assert unpack(tmp_path / "more", "a.tgz", data, limit=5_000_000) == ZEROS


def test_negative_size_is_an_error(tmp_path):
    data = bytearray(tar())
    data[124:136] = b"\xff" * 10 + b"\xfe\x00"
    total = sum(data[:148]) + 8 * 32 + sum(data[156:512])
    data[148:156] = b"%06o\0 " % total
    with pytest.raises(tarfile.ReadError, match="header announces"):
        unpack(tmp_path, "a.tar", bytes(data))


@pytest.mark.parametrize("suffix", KINDS)
def test_truncated_archives_are_errors(tmp_path, suffix):
    data = KINDS[suffix]
    if suffix == ".tar":
        data = data[: len(data.rstrip(b"\0")) // 512 * 512 + 1024]  # what follows is padding
    for end in [*range(0, len(data), 97), len(data) - 1]:
        with pytest.raises(Exception):  # noqa: B017 - whatever the reader raises
            unpack(tmp_path / str(end), f"a{suffix}", data[:end])


@pytest.mark.parametrize("suffix", KINDS)
def test_damaged_archives_are_errors(tmp_path, suffix):
    rng, silent = random.Random(0), 0
    for number in range(120):
        data = bytearray(KINDS[suffix])
        for _ in range(rng.choice((1, 1, 3, 30))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if number % 10 == 0:
            data = rng.randbytes(rng.randrange(2000))
        try:
            unpack(tmp_path / str(number), f"a{suffix}", bytes(data))
            silent += 1  # bytes that are not of the content may differ
        except Exception as error:
            assert not isinstance(error, AssertionError), error
    assert silent < 60 or suffix == ".tar"  # which has no checksum of its content


def test_empty_archive_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="it is empty"):
        unpack(tmp_path, "a.tar", tar(files={}))

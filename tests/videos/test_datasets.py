import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from cwm import config
from cwm.infra.errors import UserError
from cwm.infra.files import file_lock, sha256
from cwm.videos.collect import collect, write_lists
from cwm.videos.datasets import (
    Candidate,
    ClipRecord,
    DatasetConfig,
    describe,
    find,
    is_heldout,
)
from cwm.videos.ffmpeg import Geometry, decode
from cwm.videos.images import Stills
from cwm.videos.lists import list_name, part_of, read_list
from cwm.videos.synthetic import robot, something

ROOT = Path(__file__).parents[2]


def test_defaults_are_those_of_the_paper():
    cfg = DatasetConfig()
    assert (cfg.source, cfg.min_frames, cfg.geometry.aspect) == ("folder", 25, "stretch")


@pytest.mark.parametrize(
    "bad",
    [
        {"heldout": 1.5},
        {"sorce": "folder"},
        {"geometry": {"size": 32}},
        {"names": "(unclosed"},
        {"kinds": ["film"]},
    ],
)
def test_wrong_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        DatasetConfig(**bad)


def test_share_of_held_out_clips_is_right():
    held = sum(is_heldout(f"clips/{i}.webm", 0.1) for i in range(10_000))
    assert 900 < held < 1100
    assert not any(is_heldout(f"{i}", 0) for i in range(100))
    assert all(is_heldout(f"{i}", 1) for i in range(100))


def test_files_are_found_by_suffix_and_labelled_by_folder(tmp_path):
    names = ["camera.MTS", "disc.vob", "film.m2ts", "push/a.webm", "tape.mxf", "x/y/c.gif"]
    for name in [*names, "push/.hidden.webm", "notes.txt", "x/1.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    cfg = DatasetConfig()
    clips = sorted(find(tmp_path, cfg))
    assert [clip.file for clip in clips] == names
    labels = [describe(tmp_path, clip, cfg).label for clip in clips]
    assert labels == [None, None, None, "push", None, "y"]
    video = describe(tmp_path, Candidate("push/a.webm"), cfg)
    assert (video.bytes, video.sha256) == (11, sha256(tmp_path / "push/a.webm"))


def test_linked_folders_are_followed_once_and_cycles_end(tmp_path, caplog):
    videos, disk = tmp_path / "videos", tmp_path / "disk"
    for path in (videos / "garden/1.mp4", disk / "kitchen/2.mp4", disk / "attic/3.mp4"):
        path.parent.mkdir(parents=True)
        path.touch()
    (videos / "a kitchen").symlink_to(disk / "kitchen")
    (videos / "garden/up").symlink_to("..")
    (videos / "garden/around").symlink_to("around")
    (videos / "flowers").symlink_to("garden")
    (videos / "gone").symlink_to(disk / "gone")
    (disk / "kitchen/attic").symlink_to("../attic")
    (disk / "attic/kitchen").symlink_to("../kitchen")
    files = sorted(clip.file for clip in find(videos, DatasetConfig()))
    assert files == ["a kitchen/2.mp4", "a kitchen/attic/3.mp4", "garden/1.mp4"]
    said = [line.replace(f"{videos}/", "").replace(str(tmp_path), "") for line in caplog.messages]
    assert sorted(said) == [
        "a kitchen/attic/kitchen is skipped: it links to /disk/kitchen; /disk/kitchen is listed",
        "flowers is skipped: it links to garden; /videos is listed",
        "garden/around is a broken link",
        "garden/up is skipped: it links to /videos; /videos is listed",
        "gone is a broken link",
    ]


def test_unreadable_file_is_listed(tmp_path):
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (clip,) = find(tmp_path, DatasetConfig())
    gone = describe(tmp_path, clip, DatasetConfig(heldout=0))
    assert gone == ClipRecord("gone.mp4", 0, None, None, "train", {})


def test_empty_folder_error_says_how_to_get_the_clips(tmp_path):
    cfg = DatasetConfig(by_hand="Accept the\nlicence.")
    expected = r"expected: a folder of clips, .*\.webm.*\. Accept the licence\."
    with pytest.raises(UserError, match=r"no clips in .*; " + expected):
        collect("own", replace(cfg, folder=tmp_path), tmp_path / "out", 1)
    with pytest.raises(UserError, match=r"no folder .*missing; " + expected):
        find(tmp_path / "missing", cfg)


def test_annotations_select_the_clips(tmp_path):
    """As Something-Something's: no labels for the test split, and a missing video is listed."""
    (tmp_path / "labels").mkdir()
    for split, names in {"train": ("1", "2"), "validation": ("3", "4")}.items():
        entries = [
            {"id": n, "template": "Pushing [something] from left", "label": ""} for n in names
        ]
        (tmp_path / f"labels/{split}.json").write_text(json.dumps(entries))
    for name in ("1", "3", "4", "999"):
        (tmp_path / f"videos/{name}.webm").parent.mkdir(exist_ok=True)
        (tmp_path / f"videos/{name}.webm").write_text(name)
    cfg = DatasetConfig(annotations={"train": "**/*train.json", "heldout": "**/*validation.json"})
    videos = [describe(tmp_path, clip, cfg) for clip in sorted(find(tmp_path, cfg))]
    label = "Pushing something from left"
    assert [(v.file, v.label, v.split, v.sha256 is None) for v in videos] == [
        ("2", label, "train", True),
        ("videos/1.webm", label, "train", False),
        ("videos/3.webm", label, "heldout", False),
        ("videos/4.webm", label, "heldout", False),
    ]
    (tmp_path / "labels/train.json").write_text('[{"id": 1}]')
    with pytest.raises(UserError, match=r"train\.json: 0\.template"):
        list(find(tmp_path, cfg))
    (tmp_path / "labels/train.json").unlink()
    with pytest.raises(UserError, match=r"0 files \*\*/\*train\.json in .*, expected one"):
        list(find(tmp_path, cfg))


def test_annotated_name_with_several_files_takes_the_first_visible(tmp_path, caplog):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/train.json").write_text('[{"id": 1, "template": "a"}]')
    for name in ("._train.json", "labels/._train.json", ".cache/train.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    for name in ("1.webm", "1.mp4", "1.mkv", "._1.avi", "2.webm", "2.mp4"):
        (tmp_path / name).touch()
    for pattern in ("**/*train.json", "labels/*.json", "labels/train.json"):
        cfg = DatasetConfig(annotations={"train": pattern})
        assert list(find(tmp_path, cfg)) == [Candidate("1.mkv", None, "a", "train")]
    assert caplog.messages[0] == (
        "1 annotated clips have several files; the first by path is used: 1.mkv, not 1.mp4, 1.webm"
    )


def test_annotations_in_a_linked_folder_are_found(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/train.json").write_text('[{"id": 1, "template": "a"}]')
    (tmp_path / "videos/1.webm").touch()
    (tmp_path / "videos/labels").symlink_to(tmp_path / "labels")
    cfg = DatasetConfig(annotations={"train": "**/*train.json"})
    assert list(find(tmp_path / "videos", cfg)) == [Candidate("1.webm", None, "a", "train")]


def test_human36m_names_give_attributes(tmp_path):
    cfg = config.load([ROOT / "config/dataset/human36m.yaml"]).dataset
    clip = describe(tmp_path, Candidate("S9/S9_WalkDog_1.58860488_000006.jpg"), cfg)
    assert (clip.label, clip.attributes) == ("WalkDog", {"subject": "S9", "camera": "58860488"})


def test_views_of_the_same_scene_are_held_out_together(tmp_path):
    cfg = config.load([ROOT / "config/dataset/human36m.yaml"]).dataset
    splits = {}
    for action in range(40):
        for camera in ("54138969", "60457274"):
            first = f"S1_Act_{action}.{camera}_000001.jpg"
            (tmp_path / first).write_bytes(b"x")
            video = describe(tmp_path, Candidate(first, Stills(5, 1)), cfg)
            splits.setdefault(action, set()).add(video.split)
            assert video.attributes == {"subject": "S1", "camera": camera}
    assert {len(found) for found in splits.values()} == {1}
    assert {split for found in splits.values() for split in found} == {"train", "heldout"}


def test_datasets_of_the_paper_have_their_geometry_and_sampling():
    def read(name):
        return config.load([ROOT / f"config/dataset/{name}.yaml"]).dataset

    names = ("something", "human36m", "youtube-driving", "rlbench", "ego4d")
    corpora = {name: read(name) for name in names}
    assert [cfg.geometry.aspect for cfg in corpora.values()] == [
        "stretch",
        "person",
        "center-crop",
        "stretch",
        "center-crop",
    ]
    assert (corpora["youtube-driving"].skip, corpora["youtube-driving"].every) == (99, 5)
    assert corpora["rlbench"].prioritize_ends
    assert all(cfg.by_hand for cfg in corpora.values())
    members = [member.dataset for member in read("mixture").members]
    assert members == ["something", "human36m", "youtube-driving"]
    assert {member.weight for member in read("mixture").members} == {1.0}
    sizes = [read(name).members[0].clips for name in ("something-1500", "something-15k")]
    assert sizes == [1500, 15_000]


def test_list_of_a_part_has_what_was_listed(tmp_path):
    clips = [
        Candidate("1.jpg", Stills(5, 3)),
        Candidate("a\nb.mp4", None, "wave", "heldout"),
        Candidate(os.fsdecode(b"caf\xe9/2.mp4"), attributes={"scene": "ä"}),
        Candidate("\u20ac.mp4"),
    ]
    assert write_lists(iter(clips[::-1]), 1, "sub", tmp_path) == 4
    root, listed, checksum = read_list(tmp_path / "videos.json", 0, 1)
    assert (root, checksum) == (tmp_path / "sub", sha256(tmp_path / "list-000.parquet"))
    assert [x._replace(attributes=x.attributes or None) for x in listed] == sorted(clips)


def test_every_clip_is_in_the_list_of_one_part_and_other_lists_are_deleted(tmp_path):
    clips = [Candidate(f"{i}.mp4") for i in range(500)]
    for parts in (12, 7):
        write_lists(iter(clips), parts, ".", tmp_path)
    assert sorted(x.name for x in tmp_path.iterdir()) == [list_name(part) for part in range(7)]
    listed = {n: read_list(tmp_path / "videos.json", n, 7).clips for n in range(7)}
    assert all(part_of(x.file, 7) == n for n, found in listed.items() for x in found)
    assert sorted(x.file for found in listed.values() for x in found) == sorted(
        clip.file for clip in clips
    )
    assert min(map(len, listed.values())) > 40  # of 71 on average


def test_list_of_another_number_of_parts_is_an_error(tmp_path):
    write_lists(iter([Candidate("1.mp4")]), 2, ".", tmp_path)
    message = r"list-001\.parquet is part 1 of 2, expected part 1 of 3; run `cwm collect` again"
    with pytest.raises(UserError, match=message):
        read_list(tmp_path / "videos.json", 1, 3)


def standin(name, clips):
    return DatasetConfig(source="standin", standin={"name": name, "clips": clips}, parts=1)


def files(out):
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


def test_standin_is_independent_of_workers_and_existing_files(tmp_path):
    collect("something", standin("something", 4), tmp_path / "all", workers=2)
    all_of_them = files(tmp_path / "all")
    listed = read_list(tmp_path / "all/videos.json", 0, 1).clips
    labels = [describe(tmp_path, video, DatasetConfig()).label for video in listed]
    assert sorted(labels) == sorted(something.LABELS)

    part = tmp_path / "part"  # as a killed job leaves it, with one complete file
    (first, _, third, _) = sorted(name for name in all_of_them if name.endswith(".webm"))
    for name in (first, third):
        (part / name).parent.mkdir(parents=True)
    (part / first).write_bytes(all_of_them[first])
    (part / third).with_name(".tmp-000000.webm").write_bytes(b"half a clip")
    modified = (part / first).stat().st_mtime_ns
    collect("something", standin("something", 4), part, workers=1)
    assert {name: data for name, data in files(part).items() if ".tmp" not in name} == all_of_them
    assert (part / first).stat().st_mtime_ns == modified


def test_two_jobs_cannot_generate_one_standin(tmp_path):
    message = "another process is listing clips in"
    with file_lock(tmp_path / ".lock", ""), pytest.raises(UserError, match=message):
        collect("something", standin("something", 4), tmp_path, workers=1)


def test_robot_clips_show_a_moving_arm(tmp_path):
    collect("rlbench", standin("robot", 1), tmp_path, workers=1)
    (path,) = tmp_path.rglob("*.mp4")
    assert path.parent.name == robot.label(0)
    frames, width, height, *_ = decode(path, Geometry())
    assert (len(frames), width, height) == (robot.FRAMES, 96, 96)
    assert (abs(frames[-1].astype(int) - frames[0]) > 40).any(-1).mean() > 0.02


def test_folder_is_listed_by_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/own/wave").mkdir(parents=True)
    (tmp_path / "data/own/wave/a.mp4").write_text("x")
    for _ in range(2):
        collect("own", DatasetConfig(parts=1), tmp_path / "results/videos/own", workers=2)
    path = tmp_path / "results/videos/own/videos.json"
    assert str(tmp_path).encode() not in path.with_name("list-000.parquet").read_bytes()
    root, listed, _ = read_list(path, 0, 1)
    assert root == path.parent / "../../../data/own"
    assert [video.file for video in listed] == ["wave/a.mp4"]
    made = [f"results/videos/own/{name}" for name in (".lock", "list-000.parquet", "videos.json")]
    assert sorted(files(tmp_path)) == ["data/own/wave/a.mp4", *made]


def test_folder_is_found_from_linked_results(tmp_path, monkeypatch):
    (tmp_path / "project/data/own").mkdir(parents=True)
    (tmp_path / "project/data/own/a.mp4").write_text("x")
    (tmp_path / "disk/mine/results").mkdir(parents=True)
    (tmp_path / "project/results").symlink_to(tmp_path / "disk/mine/results")
    monkeypatch.chdir(tmp_path / "project")
    collect("own", DatasetConfig(parts=1), Path("results/videos/own"), workers=1)
    root, listed, _ = read_list(Path("results/videos/own/videos.json"), 0, 1)
    assert [(root / video.file).read_text() for video in listed] == ["x"]


def test_unknown_standin_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"unknown synthetic dataset 'somthing'.*something"):
        collect("somthing", standin("somthing", 1), tmp_path / "out", 1)
    assert not (tmp_path / "out/videos.json").exists()

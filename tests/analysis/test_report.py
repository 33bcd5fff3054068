import base64
import json
from html.parser import HTMLParser

import pytest
import study

from cwm.analysis.report import write_report
from cwm.infra.errors import UserError

PNG = b"\x89PNG a picture"
MP4 = b"\x00\x00\x00 ftyp a film"
EVIL = "<script>alert(1)</script>"


def figure(root, name, **fields):
    facts = {
        "title": f"About {name}",
        "caption": f"What {name} shows.",
        "scale": "laptop",
        "claim": "Videos help.",
        "notes": ["One seed only."],
        "runs": ["finetune/toy/sphere/contextwm/none/standard/0"],
        "seeds": {"ContextWM": 1},
        "command": f"snakemake fig_{name}",
        "commit": "c0ffee",
        "config": "config/study/laptop.yaml",
        "data": {f"results/laptop/scores/{name}.csv": "5c0e5"},
        **fields,
    }
    study.write_json(root / f"{name}.json", facts)
    (root / f"{name}.png").write_bytes(PNG + name.encode())
    return root / f"{name}.json"


class Page(HTMLParser):
    """Tags with their attributes, and the words of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def data_url(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def page(tmp_path):
    """A report of two figures, two tables, two datasets and an episode, parsed."""
    run = study.finetune(tmp_path, {0: [1]})
    (run / "episode.mp4").write_bytes(MP4)
    other = study.finetune(tmp_path, {0: [1]}, seed=1)
    study.write_json(
        other / "run.json",
        json.loads((other / "run.json").read_text())
        | {"versions": {"torch": "9"}, "commit": "0123456789" * 4 + "-dirty"},
    )
    (tmp_path / "one.md").write_text(
        "| Task | Score |\n| --- | --- |\n| ball | 0.5 |\n\n- Noted.\n"
    )
    hostile = f"| Task |\n| --- |\n| {EVIL} ![x](http://evil/x.png) [y](http://evil) |\n"
    (tmp_path / "alone.md").write_text(hostile)
    files = [(f"{i}.webm", "ok", None) for i in range(7)]
    files += [
        (f"{EVIL}.webm", "failed", "moov atom <not> found"),
        ("s.webm", "too-short", "8 frames"),
    ]
    write_report(
        "laptop",
        [figure(tmp_path, "one"), figure(tmp_path, "two", title=EVIL, notes=[EVIL], claim="")],
        [tmp_path / "one.md", tmp_path / "alone.md"],
        [study.store(tmp_path, "something", files), study.store(tmp_path, "rlbench", files[:3])],
        [run / "episode.mp4"],
        tmp_path / "deep" / "report.html",
        [run / "scores.csv", other],
    )
    return Page((tmp_path / "deep" / "report.html").read_text())


def test_every_figure_is_told_and_embedded(page):
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    sheets = [b"something", b"rlbench"]
    shown = [PNG + name for name in (b"one", b"two")] + sheets
    assert pictures == [data_url("image/png", picture) for picture in shown]
    for said in ("About one", "What one shows.", "One seed only.", "Videos help.", "c0ffee"):
        assert said in page.words
    for said in ("config/study/laptop.yaml", "results/laptop/scores/one.csv", "5c0e5"):
        assert said in page.words
    for command in ("snakemake fig_one", "snakemake fig_two"):
        assert command in page.words
    assert "too small for claims about the paper" in page.words


def test_nothing_is_loaded_from_elsewhere(page):
    for name in ("src", "href", "srcset", "poster", "data", "action"):
        assert all(value.startswith(("data:", "#")) for value in page.attributes(name))
    assert "@import" not in page.words
    assert "url(" not in page.words
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    targets = set(page.attributes("id"))
    links = {value[1:] for value in page.attributes("href") if value.startswith("#")}
    assert links == targets


def test_hostile_names_are_text(page):
    assert page.words.count(EVIL) == 5  # the title twice, a note, a table and a file
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "moov atom <not> found" in page.words


def test_data_are_counted_and_failures_named(page):
    assert "9 found, 7 ok, 1 failed, 1 too-short" in page.words
    assert "3 found, 3 ok" in page.words
    for said in ("1 moov atom <not> found; 1 8 frames", "2: left, right", "7 scene", "5ha256"):
        assert said in page.words
    assert "175, 1.5 minutes" in page.words
    assert f"{EVIL}.webm" in page.words
    assert "8 frames" in page.words


def test_tables_episodes_and_runs(page):
    assert page.words.count("ball") == 1
    assert "Noted." in page.words
    (film,) = [attrs for tag, attrs in page.tags if tag == "video"]
    assert film["src"] == data_url("video/mp4", MP4)
    assert "controls" in film
    assert "toy/sphere: ContextWM, something, seed 0" in page.words
    assert page.words.count("abc123") == 2  # the run of the episode is listed once
    assert "torch 2.13.0" in page.words
    assert "torch 9" in page.words
    assert "0123456789-dirty" in page.words


def test_many_failures_are_counted_when_not_shown(tmp_path):
    files = [("a.mp4", "ok", None), ("b.mp4", "ok", None)]
    files += [(f"{i:03}.mp4", "failed", "broken") for i in range(203)]
    store = study.store(tmp_path, "rlbench", files)
    write_report("laptop", [], [], [store], [], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "199.mp4" in text
    assert "200.mp4" not in text
    assert "and 3 more" in text


def test_missing_files_are_named(tmp_path):
    def write(*args, **kwargs):
        write_report("laptop", *args, tmp_path / "report.html", **kwargs)

    about = figure(tmp_path, "one")
    (tmp_path / "one.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*one.png"):
        write([about], [], [], [])
    (tmp_path / "one.png").write_bytes(PNG)
    study.write_json(about, {"title": "x"})
    with pytest.raises(UserError, match=r"one.json lacks caption"):
        write([about], [], [], [])
    with pytest.raises(UserError, match=r"cannot read .*none.md"):
        write([], [tmp_path / "none.md"], [], [])
    store = study.store(tmp_path, "rlbench", [("a.mp4", "ok", None), ("b.mp4", "ok", None)])
    store.with_name("manifest.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"cannot read .*manifest.parquet"):
        write([], [], [store], [])
    with pytest.raises(UserError, match=r"no file or folder .*episode.mp4"):
        write([], [], [], [tmp_path / "episode.mp4"])

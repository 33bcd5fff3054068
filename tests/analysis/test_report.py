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
        "details": f"How {name} was made.",
        "scale": "laptop",
        "claim": "Videos help.",
        "notes": ["One seed only."],
        "answers": [],
        "too_short": False,
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
    """Tags with their attributes, and the text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def answer(question, found, measure="toy/sphere, area"):
    return {"question": question, "answer": found, "measure": measure, "difference": "1 [0, 2]"}


def data_url(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def page(tmp_path):
    """A parsed report of two figures, two tables, two datasets and an episode."""
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
    failed = {"moov atom <not> found": 1, "8 frames": 1}
    write_report(
        "laptop",
        [figure(tmp_path, "one"), figure(tmp_path, "two", title=EVIL, notes=[EVIL], claim="")],
        [tmp_path / "one.md", tmp_path / "alone.md"],
        [study.store(tmp_path, "something", 7, failed), study.store(tmp_path, "rlbench", 3)],
        [run / "episode.mp4"],
        tmp_path / "deep" / "report.html",
        [run / "scores.csv", other],
    )
    return Page((tmp_path / "deep" / "report.html").read_text())


def test_every_figure_is_embedded_with_its_facts(page):
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    sheets = [b"something", b"rlbench"]
    shown = [PNG + name for name in (b"one", b"two")] + sheets
    assert pictures == [data_url("image/png", picture) for picture in shown]
    for text in ("About one", "What one shows.", "One seed only.", "Videos help.", "c0ffee"):
        assert text in page.text
    for text in ("config/study/laptop.yaml", "results/laptop/scores/one.csv", "5c0e5"):
        assert text in page.text
    for command in ("snakemake fig_one", "snakemake fig_two"):
        assert command in page.text
    assert "too small for claims about the paper" in page.text


def test_nothing_is_loaded_from_elsewhere(page):
    for name in ("src", "href", "srcset", "poster", "data", "action"):
        assert all(value.startswith(("data:", "#")) for value in page.attributes(name))
    assert "@import" not in page.text
    assert "url(" not in page.text
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    targets = set(page.attributes("id"))
    links = {value[1:] for value in page.attributes("href") if value.startswith("#")}
    assert links == targets


def test_markup_in_names_is_escaped(page):
    assert page.text.count(EVIL) == 4  # the title twice, a note and a table
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "moov atom <not> found" in page.text


def test_data_and_failures_are_counted(page):
    for text in (
        "9 found, 7 ok, 2 failed",
        "3 found, 3 ok",
        "1 moov atom <not> found; 1 8 frames",
        "2: left, right",
        "7 scene",
        "5ha256",
        "175, 1.5 minutes",
    ):
        assert text in page.text


def test_tables_episodes_and_runs_are_listed(page):
    assert page.text.count("ball") == 1
    assert "Noted." in page.text
    (film,) = [attrs for tag, attrs in page.tags if tag == "video"]
    assert film["src"] == data_url("video/mp4", MP4)
    assert "controls" in film
    assert "toy/sphere: ContextWM, something, seed 0" in page.text
    assert page.text.count("abc123") == 2  # the run of the episode is not listed twice
    assert "torch 2.13.0" in page.text
    assert "torch 9" in page.text
    assert "0123456789-dirty" in page.text


def test_page_begins_with_the_answers_of_all_figures(tmp_path):
    answers = [answer("Sooner?", "yes"), answer("Better?", "runs missing", "toy/blob, final score")]
    figures = [figure(tmp_path, "one", answers=answers)]
    figures.append(figure(tmp_path, "two", answers=[answer("Higher?", "inconclusive")]))
    write_report("laptop", figures, [], [], [], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert (
        "Question Answer Difference [95 % CI] Figure"
        " toy/blob, final score Better? runs missing 1 [0, 2] figure"
        " toy/sphere, area Sooner? yes 1 [0, 2] figure Higher? inconclusive 1 [0, 2] figure"
    ) in " ".join(page.text[: page.text.index("About one")].split())
    assert page.attributes("href")[1:4] == ["#one", "#one", "#two"]


def test_study_without_comparisons_begins_with_the_claims(page):
    text = " ".join(page.text.split())
    assert "so there is no table of answers. The figures show what was measured." in text
    assert "The paper's claim Figure Videos help. figure About one" in text
    assert "Question" not in text


def test_study_of_short_runs_only_has_no_table(tmp_path):
    write_report(
        "smoke", [figure(tmp_path, "one", too_short=True)], [], [], [], tmp_path / "r.html"
    )
    page = Page((tmp_path / "r.html").read_text())
    assert "answers" not in page.attributes("class")
    said = "The figures show what was measured; all runs are too short to show learning."
    assert said in " ".join(page.text.split())


def test_figures_of_short_runs_follow_the_others(tmp_path):
    run = study.finetune(tmp_path, {0: [1]})
    figures = [figure(tmp_path, "one", too_short=True), figure(tmp_path, "two")]
    write_report("laptop", figures, [], [], [], tmp_path / "report.html", [run])
    page = Page((tmp_path / "report.html").read_text())
    assert page.attributes("id") == ["two", "too-short", "one", "runs"]
    assert "#one" not in page.attributes("href")


def test_details_are_collapsed(page):
    opened = [attrs for tag, attrs in page.tags if tag == "details" and "open" in attrs]
    assert opened == []
    assert "Details and 1 note on the data" in " ".join(page.text.split())


def test_missing_files_are_named(tmp_path):
    def write(*args, **kwargs):
        write_report("laptop", *args, tmp_path / "report.html", **kwargs)

    path = figure(tmp_path, "one")
    (tmp_path / "one.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*one.png"):
        write([path], [], [], [])
    (tmp_path / "one.png").write_bytes(PNG)
    study.write_json(path, {"title": "x"})
    with pytest.raises(UserError, match=r"one.json: .*caption.*; draw the figure again"):
        write([path], [], [], [])
    with pytest.raises(UserError, match=r"cannot read .*none.md"):
        write([], [tmp_path / "none.md"], [], [])
    store = study.store(tmp_path, "rlbench", 2)
    store.with_name("contact.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*contact.png"):
        write([], [], [store], [])
    with pytest.raises(UserError, match=r"no file or folder .*episode.mp4"):
        write([], [], [], [tmp_path / "episode.mp4"])

"""The report in a real browser: its first screen, pictures, films, links, keyboard, narrow window.

make report-test
"""

import base64
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analysis import study
from report.devtools import Chromium

from cwm.analysis import scores
from cwm.analysis.draw import draw, tabulate
from cwm.analysis.provenance import FigureMeta
from cwm.analysis.report import write_report
from cwm.study_file import Arm, Comparison, Figure
from cwm.videos.encode import H264, encode

ARMS = [Arm("contextwm", "something", seeds=5), Arm("contextwm", "none", seeds=2)]
ARMS += [Arm("plain", "something", seeds=2), Arm("plain", "none", seeds=2)]
QUESTIONS = (
    ("Is ContextWM better pre-trained on everyday videos than from scratch?", 0, 1),
    ("Is a plain world model better pre-trained on them than from scratch?", 2, 3),
    ("Is ContextWM better than a plain world model, both pre-trained?", 0, 2),
)

PICTURES = "[...document.images].map(i => i.complete ? i.naturalWidth : 0)"
FILMS = """Promise.all([...document.querySelectorAll('video')].map(async film => {
    try { await film.play() } catch (error) { return String(error) }
    const end = Date.now() + 20000
    while (film.currentTime < 0.3 && Date.now() < end) await new Promise(r => setTimeout(r, 50))
    return film.currentTime >= 0.3 && film.videoWidth > 0 ? 'plays' : 'stands still'
}))"""
KINDS = ("domains", "comparisons", "curves")
SHAPES = {"desktop": (1280, 800), "phone": (360, 740)}
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LINKS = "[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))"


@pytest.fixture(scope="module")
def browser():
    with Chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with real figures and encoded films."""
    root = tmp_path_factory.mktemp("report")
    runs, levels = study.whole(root)
    scores.collect(runs, levels, root / "s.csv")
    meta = FigureMeta(
        "Curves & <names>",
        "snakemake fig_x",
        "c0ffee",
        claim="Pre-training a contextualized world model on in-the-wild videos makes model-based "
        "reinforcement learning more sample-efficient.",
        notes=("One small task, our own.",),
        data=(root / "s.csv",),
    )
    asked = tuple(
        Comparison(question, "toy", "sphere", ARMS[first], ARMS[second])
        for question, first, second in QUESTIONS
    )
    for kind in KINDS:
        figure = Figure(kind, kind, comparisons=asked if kind == "comparisons" else ())
        tabulate(figure, root / "s.csv", root / "tables" / kind)
        files = [root / "tables" / f"{kind}.csv", root / "s.csv"]
        draw(kind, files, root / kind, replace(meta, too_short=kind == "domains"))
    store = study.store(root, "something", 1, {"cut off": 1})
    store.with_name("contact.png").write_bytes((root / "curves.png").read_bytes())
    films = [run / "episode.mp4" for run in runs[:3]]
    for film in films:
        frames = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8)
        encode(film, frames, 15, H264)
    made = [root / f"{kind}.json" for kind in KINDS]
    read = [root / "tables" / f"{kind}.md" for kind in KINDS]
    write_report("laptop", made, read, [store], films, root / "report.html", runs)
    return root / "report.html"


def test_pictures_load_and_films_play(browser, report):
    browser.open(report)
    pictures = browser.evaluate(PICTURES)
    assert len(pictures) == 4
    assert min(pictures) > 500
    assert browser.evaluate(FILMS) == ["plays"] * 3
    assert browser.complaints() == []
    assert all(url.startswith(("file:", "data:")) for url in browser.requests())
    assert browser.evaluate("document.querySelector('h2').innerText") == "Curves & <names>"


def test_links_scroll_to_their_target(browser, report):
    browser.open(report)
    links = browser.evaluate(LINKS)
    assert len(links) > 4
    for link in links:
        quoted = json.dumps(link)
        browser.evaluate(f"document.querySelector('a[href=' + CSS.escape({quoted}) + ']').click()")
        browser.wait(f"location.hash === {quoted}")
        browser.wait("document.querySelector(':target') !== null")
        # at the top of the window, unless the page ends
        browser.wait(
            "Math.abs(document.querySelector(':target').getBoundingClientRect().top) < 5 ||"
            " scrollY + innerHeight >= document.documentElement.scrollHeight - 2"
        )
    browser.evaluate("document.querySelectorAll('summary').forEach(s => s.click())")
    assert browser.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
    assert browser.evaluate(WIDE) == 0
    assert browser.complaints() == []


@pytest.fixture(params=SHAPES)
def window(request, browser):
    """The browser in a window of a shape; yields the shape's name."""
    width, height = SHAPES[request.param]
    size = {"width": width, "height": height, "deviceScaleFactor": 1}
    browser("Emulation.setDeviceMetricsOverride", **size, mobile=request.param == "phone")
    yield request.param
    browser("Emulation.clearDeviceMetricsOverride")


def test_first_screen_shows_the_answers(browser, report, window):
    browser.open(report)
    screenshot(browser, f"report-{window}")
    table = "document.querySelector('.answers').getBoundingClientRect()"
    assert browser.evaluate(f"{table}.top > 0 && {table}.bottom < innerHeight")
    shown = browser.evaluate("document.querySelector('.answers').innerText")
    assert all(question in shown for question, *_ in QUESTIONS)
    assert browser.evaluate(WIDE) == 0
    browser.evaluate("document.querySelectorAll('summary').forEach(s => s.click())")
    assert browser.evaluate(WIDE) == 0


@pytest.mark.parametrize("window", ["desktop"], indirect=True)
@pytest.mark.usefixtures("window")
def test_captions_have_two_lines_on_a_desktop(browser, report):
    browser.open(report)
    lines = "[...document.querySelectorAll('.caption, .claim')].map(p => p.clientHeight / 22.5)"
    assert max(browser.evaluate(lines)) <= 2


def test_details_open_by_keyboard(browser, report):
    browser.open(report)
    assert browser.evaluate("document.querySelectorAll('details[open]').length") == 0
    for _ in range(100):
        press(browser, "Tab")
        if browser.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    press(browser, "Enter", "\r")
    browser.wait("document.activeElement.parentElement.open")
    text = browser.evaluate("document.activeElement.parentElement.innerText")
    assert "Welch" in text  # of the first figure, the comparisons


def press(browser, key, text=""):
    browser("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text)
    browser("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)


def screenshot(browser, name):
    """Save the window as NAME.png in the folder that the variable SCREENSHOTS names, if any."""
    if folder := os.environ.get("SCREENSHOTS"):
        picture = browser("Page.captureScreenshot", format="png")["data"]
        Path(folder, f"{name}.png").write_bytes(base64.b64decode(picture))


def test_damaged_media_and_external_requests_are_detected(browser, report, tmp_path):
    """Guards the tests above against checks that always pass."""
    text = report.read_text()
    for beginning in ("data:image/png;base64,", "data:video/mp4;base64,"):
        text = text.replace(beginning, beginning + "AAAA", 1)
    text = text.replace("</body>", "<img src='https://example.org/x.png'></body>")
    (tmp_path / "broken.html").write_text(text)
    browser.open(tmp_path / "broken.html")
    assert browser.evaluate(PICTURES).count(0) == 2
    assert browser.evaluate(FILMS).count("plays") == 2
    assert any("Content Security Policy" in said for said in browser.complaints())

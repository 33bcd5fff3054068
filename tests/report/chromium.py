"""The report in a real browser: pictures load, films play, links work, nothing is logged.

make report-test
"""

import json

import numpy as np
import pytest
from analysis import study
from report.devtools import Chromium

from cwm.analysis import scores, tables
from cwm.analysis.draw import draw
from cwm.analysis.provenance import FigureMeta
from cwm.analysis.report import write_report
from cwm.videos.encode import H264, encode

PICTURES = "[...document.images].map(i => i.complete ? i.naturalWidth : 0)"
FILMS = """Promise.all([...document.querySelectorAll('video')].map(async film => {
    try { await film.play() } catch (error) { return String(error) }
    const end = Date.now() + 20000
    while (film.currentTime < 0.3 && Date.now() < end) await new Promise(r => setTimeout(r, 50))
    return film.currentTime >= 0.3 && film.videoWidth > 0 ? 'plays' : 'stands still'
}))"""
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
    meta = FigureMeta("Curves & <names>", "snakemake fig_x", "c0ffee", data=(root / "s.csv",))
    for kind in ("curves", "domains"):
        tables.make_table(kind, root / "s.csv", root / "tables" / kind)
        draw(kind, [root / "tables" / f"{kind}.csv", root / "s.csv"], root / kind, meta)
    store = study.store(root, "something", 1, {"cut off": 1})
    store.with_name("contact.png").write_bytes((root / "curves.png").read_bytes())
    films = [run / "episode.mp4" for run in runs[:3]]
    for film in films:
        frames = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8)
        encode(film, frames, 15, H264)
    made = [root / f"{kind}.json" for kind in ("curves", "domains")]
    read = [root / "tables" / f"{kind}.md" for kind in ("curves", "domains")]
    write_report("laptop", made, read, [store], films, root / "report.html", runs)
    return root / "report.html"


def test_pictures_load_and_films_play(browser, report):
    browser.open(report)
    pictures = browser.evaluate(PICTURES)
    assert len(pictures) == 3
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
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.evaluate(wide) == 0
    assert browser.complaints() == []


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

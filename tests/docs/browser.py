"""The site, opened from its folder in a Chromium without a network: `make docs-test`."""

import pytest
from blocks import ROOT
from report.devtools import Chromium

SITE = ROOT / "site"  # which `make docs` builds
FIELD = """[...document.querySelectorAll('div')]
    .map(x => x.shadowRoot?.querySelector('input[type=text]')).find(x => x)"""
FOUND = f"({FIELD}).getRootNode().querySelectorAll('a[href*=\"deviations.html\"]').length"


@pytest.fixture(scope="module")
def browser():
    with Chromium() as chromium:
        yield chromium


def test_search_works_offline(browser):
    browser.open(SITE / "reference/python.html")
    browser.evaluate("document.querySelector('.md-search__button').click()")
    browser.wait(f"!!({FIELD})")
    browser.evaluate(f"({FIELD}).focus()")
    browser("Input.insertText", text="bfloat16 autocast")
    browser.wait(f"{FOUND} > 0")
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [360, 1400])
def test_pages_fit_the_screen_and_load_nothing_else(browser, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser("Emulation.setDeviceMetricsOverride", **size)
    for page in SITE.rglob("*.html"):
        if page.name != "404.html":  # which only a server shows
            browser.open(page)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width, page
            assert browser.complaints() == [], page
            others = [url for url in browser.requests() if not url.startswith(("file:", "data:"))]
            assert others == [], page

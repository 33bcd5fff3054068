"""Screenshots of the viewer, and of a report, for docs/pictures.

python tests/viewer/screenshots.py [MODEL...] [--report REPORT.html]

Without MODEL the viewer shows the published models. --out names another folder.
"""

import argparse
import base64
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from report.devtools import Chromium  # noqa: E402
from running import viewer  # noqa: E402

LARGEST = 300_000  # bytes of a picture
MARGIN = 10  # pixels around what is shown
CLIP, OTHER, FRAME = 5, 6, 14  # a clip and its context frame, of another; they differ clearly
STEPS = 12  # of the episode


def shoot(browser, file, first, last):
    """Save the part of the window from the top of an element to the bottom of another."""
    box = "document.querySelector('{}').getBoundingClientRect()"
    x, top, width = browser.evaluate(f"(b => [b.x, b.y, b.width])({box.format(first)})")
    bottom = browser.evaluate(f"{box.format(last)}.bottom")
    area = {"x": x - MARGIN, "y": top - MARGIN, "scale": 1}
    area |= {"width": width + 2 * MARGIN, "height": bottom - top + 2 * MARGIN}
    shot = browser("Page.captureScreenshot", format="png", clip=area)
    file.write_bytes(base64.b64decode(shot["data"]))
    if file.stat().st_size > LARGEST:
        raise SystemExit(f"{file} has {file.stat().st_size} bytes, more than {LARGEST}")
    print(file)


def set_value(browser, name, value):
    browser.evaluate(f"$('{name}').value = '{value}'")
    for event in ("input", "change"):
        browser.evaluate(f"$('{name}').dispatchEvent(new Event('{event}'))")
    browser.wait("!waiting && !wanted")


def viewer_pictures(browser, address, folder):
    """A clip predicted in another appearance and, if there is one, an agent in its dream."""
    browser.visit(address)
    browser.wait("state.rows.length && !waiting")
    browser.evaluate("state.playing = false")
    set_value(browser, "clip", CLIP)
    set_value(browser, "contextKind", "clip")
    set_value(browser, "other", OTHER)
    set_value(browser, "frame", FRAME)
    shoot(browser, folder / "viewer.png", "#clips", "#contextBox")
    if browser.evaluate("$('dreams').hidden"):
        return
    set_value(browser, "contextKind", "own")
    set_value(browser, "mode", "policy")
    browser.evaluate("$('reset').click()")
    browser.wait("!state.over && !waiting")
    browser.evaluate("$('run').click()")
    browser.wait(f"$('steps').textContent.startsWith('step {STEPS}')", 60)
    browser.evaluate("$('run').click()")
    shoot(browser, folder / "viewer-act.png", "#dreams", "#dreams")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--out", type=Path, default=TESTS.parent / "docs/pictures")
    chosen = parser.parse_args()
    with Chromium(offline=False) as browser:
        size = {"width": 1000, "height": 1400, "deviceScaleFactor": 1}
        browser("Emulation.setDeviceMetricsOverride", **size, mobile=False)
        with viewer(*chosen.models) as address:
            viewer_pictures(browser, address, chosen.out)
        if chosen.report:
            browser.open(chosen.report)
            shoot(browser, chosen.out / "report.png", "h1", "nav")


if __name__ == "__main__":
    main()

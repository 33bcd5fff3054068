"""The viewer in a real browser: every control, keyboard, narrow window, reload, restart.

make viewer-test
"""

import base64
import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image
from report.devtools import Chromium
from running import viewer

PIXELS = (
    "document.querySelectorAll('{}')[{}].getContext('2d').getImageData(0, 0, 64, 64).data.join()"
)


def words(made):
    """Arguments of `cwm dream`: small models and clips."""
    names = [made / name for name in ("contextwm", "plain", "agent")]
    return [*names, "--clips", made / "long/store.json"]


@pytest.fixture(scope="module")
def address(made):
    with viewer(*words(made)) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with Chromium(offline=False) as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    """The page, loaded, and after the test a check of its console."""
    browser.visit(address)
    browser.wait("state.rows.length === 3 && !waiting")
    yield browser
    assert browser.complaints() == []
    assert {re.match(r"\w+://[^/]*/", url)[0] for url in browser.requests()} <= {
        address,
        address.replace("http", "ws"),
    }


def pixels(page, selector, number=0):
    return page.evaluate(PIXELS.format(selector, number))


def choose(page, name, value, event="change"):
    page.evaluate(f"$('{name}').value = '{value}'; $('{name}').dispatchEvent(new Event('{event}'))")
    page.wait("!waiting && !wanted")


def press(page, key, kind="keyDown"):
    page("Input.dispatchKeyEvent", type=kind, key=key, text=key if len(key) == 1 else "")


def test_predictions_play_and_scrub(page):
    page.wait("state.frame > 3")
    page.evaluate("$('play').click()")
    choose(page, "frame", 0, "input")
    first = [pixels(page, "#rows canvas", i) for i in range(3)]
    choose(page, "frame", 19, "input")
    assert all(pixels(page, "#rows canvas", i) != first[i] for i in range(3))
    assert page.evaluate("$('rows').innerText").count("predicted") == 2
    choose(page, "observed", 19, "input")
    assert page.evaluate("state.observed") == 19
    choose(page, "clip", 1)
    assert page.evaluate("$('message').textContent") == ""


def test_context_can_be_swapped_for_a_colour_a_clip_or_an_image(page):
    page.evaluate("state.playing = false; state.frame = 10; drawRows()")
    seen = {pixels(page, "#rows canvas", 1)}
    plain = pixels(page, "#rows canvas", 2)
    choose(page, "contextKind", "colour")
    choose(page, "colour", "#20c040", "input")
    assert pixels(page, "#context").startswith("32,192,64,255")
    seen.add(pixels(page, "#rows canvas", 1))
    choose(page, "contextKind", "clip")
    seen.add(pixels(page, "#rows canvas", 1))
    file = f"new File([Uint8Array.from(atob('{red_png()}'), c => c.charCodeAt())], 'x.png')"
    page.evaluate(f"useImage({file})")
    page.wait("!waiting && state.pixels && $('contextKind').value === 'image'")
    page.wait(PIXELS.format("#context", 0) + ".startsWith('255,0,0,255')")
    seen.add(pixels(page, "#rows canvas", 1))
    assert len(seen) == 4
    assert pixels(page, "#rows canvas", 2) == plain
    page.evaluate("useImage(new File(['no image'], 'notes.txt'))")
    page.wait("$('message').textContent === 'notes.txt is not an image.'")


@pytest.mark.parametrize(
    ("kind", "shown"), [("own", []), ("clip", ["otherBox"]), ("colour", ["colourBox"])]
)
def test_only_the_controls_of_the_chosen_context_are_shown(page, kind, shown):
    choose(page, "contextKind", kind)
    boxes = "['otherBox', 'colourBox', 'imageBox'].filter(id => $(id).checkVisibility())"
    assert page.evaluate(boxes) == shown


def red_png():
    file = io.BytesIO()
    Image.new("RGB", (90, 50), (255, 0, 0)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def test_attention_is_shown_for_the_position_under_the_pointer(page):
    page.evaluate("state.playing = false")
    before = pixels(page, "#context")
    canvas = "$('rows').querySelectorAll('canvas')[1]"
    box = page.evaluate(f"(b => [b.x, b.y, b.width])({canvas}.getBoundingClientRect())")
    page("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + box[2] / 2, y=box[1] + 20)
    page.wait("state.weights !== null")
    assert pixels(page, "#context") != before


def test_keyboard_plays_steps_and_acts(page):
    page.evaluate("document.activeElement.blur(); state.playing = true; showPlaying()")
    press(page, " ")
    assert page.evaluate("$('play').textContent") == "Play"
    frame = page.evaluate("state.frame")
    press(page, ".")
    assert page.evaluate("state.frame") == (frame + 1) % 20
    press(page, "ArrowRight")
    assert page.evaluate("action().join()") == "1,0"
    press(page, "ArrowRight", "keyUp")
    assert page.evaluate("action().join()") == "0,0"
    labels = page.evaluate(
        "[...document.querySelectorAll('input, select, canvas, button')].map("
        "e => e.labels && e.labels.length || e.ariaLabel || e.textContent ? '' : e.id).join('')"
    )
    assert labels == ""


@pytest.mark.parametrize("mode", ["mine", "policy"])
def test_an_episode_runs_in_dream_and_reality(page, mode):
    choose(page, "mode", mode)
    page.evaluate("$('reset').click()")
    page.wait("!state.over && !waiting")
    before = pixels(page, "#real")
    page.evaluate("if ($('mode').value === 'mine') slider(0).value = 1; $('run').click()")
    page.wait("$('steps').textContent === 'step 20: the episode is over'", 60)
    assert pixels(page, "#real") != before
    assert page.evaluate("isFinite(Number($('imaginedReward').textContent))")


def test_films_are_saved(page):
    page.evaluate("$('saveClip').click()")
    page.wait("$('message').textContent === 'Saved cwm-clip.mp4.'")


def test_a_narrow_window_needs_no_sideways_scrolling(page):
    page(
        "Emulation.setDeviceMetricsOverride",
        width=360,
        height=740,
        deviceScaleFactor=1,
        mobile=True,
    )
    try:
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    finally:
        page("Emulation.clearDeviceMetricsOverride")


def test_screenshot(page, tmp_path):
    page.wait("state.frame === 12")
    shot = base64.b64decode(page("Page.captureScreenshot", format="png")["data"])
    (tmp_path / "viewer.png").write_bytes(shot)
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder, "viewer.png").write_bytes(shot)
    assert len(shot) > 10_000


def test_a_page_continues_when_the_server_restarts(made, browser):
    with viewer(*words(made)) as address:
        browser.visit(address)
        browser.wait("state.rows.length === 3")
    browser.wait("$('message').textContent.startsWith('The server does not answer')")
    with viewer(*words(made), port=int(re.search(r":(\d+)/", address)[1])):
        browser.wait("$('message').textContent === '' && socket.readyState === 1", 60)
        browser.evaluate("$('contextKind').value = 'colour'; contextChanged()")
        browser.wait("!waiting && $('message').textContent === ''")

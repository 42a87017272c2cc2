"""The page, in a real Chromium."""

from __future__ import annotations

import shutil
import threading
import time

import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright

from tests.server.conftest import FAKE, KEYS, settings
from videoxl.cli.demo import write_demo
from videoxl.server.app import make_app
from videoxl.server.settings import Limits, ServerSettings

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
HOSTILE = "<img src=x onerror=alert(1)>.mp4"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        yield found
        found.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_demo(path)
    return path


def serve(chosen):
    server = uvicorn.Server(uvicorn.Config(make_app(chosen, command=FAKE), port=0, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.02)
    return server, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Of an open server, and of one with keys."""
    chosen = ServerSettings(data=tmp_path_factory.mktemp("open"), model="fake", limits=Limits(file_bytes=10**8))
    servers = [
        serve(chosen),
        serve(settings(tmp_path_factory.mktemp("keys"), api_keys=KEYS)),
    ]
    yield [address for _, address in servers]
    for server, _ in servers:
        server.should_exit = True


@pytest.fixture
def page(browser, addresses):
    """A new visitor; what goes wrong on the page fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    found = context.new_page()
    wrong = []
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("dialog", lambda dialog: wrong.append(dialog.message))
    found.goto(addresses[0])
    yield found
    assert wrong == []
    context.close()


def add(page, path):
    page.set_input_files("#file", path)
    expect(page.locator("#memories li", has_text=path.name).locator(".facts")).to_contain_text("frames")
    expect(page.locator("#about")).to_have_text(path.name)


def until(page, expression):
    """Wait for a fact about the player. The page forbids eval, with which Playwright itself would wait."""
    for _ in range(500):
        if page.evaluate(f"(() => {{ const player = document.getElementById('player'); return {expression} }})()"):
            return
        page.wait_for_timeout(20)
    raise AssertionError(expression)


def ask(page, text):
    page.fill("#question", text)
    page.keyboard.press("Enter")


def test_upload_ask_and_a_click_on_the_evidence_seeks(page, film):
    add(page, film)
    expect(page.locator("#about")).to_have_text("film.mp4")
    ask(page, "What?")
    expect(page.locator("#history .said").first).to_have_text("hello")
    until(page, "player.readyState > 0")
    page.locator("#timeline button").click()
    until(page, "player.currentTime === 4")
    box = page.locator("#timeline").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 10)
    until(page, "Math.abs(player.currentTime - 24) < 1")
    page.reload()
    page.locator("#memories li", has_text="film.mp4").click()
    expect(page.locator("#history .said").first).to_have_text("hello")


def test_text_of_others_is_only_text(page, film, tmp_path):
    hostile = tmp_path / HOSTILE
    shutil.copy(film, hostile)
    hostile.write_bytes(hostile.read_bytes() + b"\0")
    add(page, hostile)
    ask(page, "<script>alert(2)</script>")
    expect(page.locator("#history .said").first).to_have_text("<script>alert(2)</script>")
    expect(page.locator("#history .warning").first).to_have_text("<b>said</b>")
    assert page.locator("#memories img").count() == 0


def test_several_videos_are_asked_at_once(page, film, tmp_path):
    other = tmp_path / "other.mp4"
    other.write_bytes(film.read_bytes() + b"\0\0")
    add(page, film)
    add(page, other)
    page.locator("#memories li", has_text="film.mp4").get_by_role("checkbox").click()
    expect(page.locator("#about")).to_contain_text("other.mp4, ")
    ask(page, "What?")
    expect(page.locator("#history .said").first).to_contain_text("other.mp4: hello")


def test_what_cannot_be_read_is_said_and_removed(page, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nothing")
    page.set_input_files("#file", bad)
    line = page.locator("#memories li", has_text="bad.mp4")
    expect(line.locator(".bad")).to_have_text("bad.mp4 is no video")
    line.get_by_role("button", name="remove").click()
    expect(line).to_have_count(0)


def test_a_reading_and_an_answer_are_stopped(page, film, tmp_path):
    waits = tmp_path / "wait.mp4"
    waits.write_bytes(b"wait")
    page.set_input_files("#file", waits)
    line = page.locator("#memories li", has_text="wait.mp4")
    expect(line.locator(".facts")).to_contain_text("prefill 1 of 2")
    line.get_by_role("button", name="cancel").click()
    expect(line.locator(".bad")).to_contain_text("cancelled")
    add(page, film)
    ask(page, "wait")
    page.locator("#stop").click()
    expect(page.locator("#history .warning").first).to_have_text("stopped")
    ask(page, "What?")
    expect(page.locator("#history .said").first).to_have_text("hello")


def test_the_keyboard_suffices(page, film):
    add(page, film)
    until(page, "player.readyState > 0")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    until(page, "player.currentTime === 5")
    page.keyboard.press("/")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("What?")
    page.keyboard.press("Enter")
    expect(page.locator("#history .said").first).to_have_text("hello")


def said(page, film, tmp_path, name, text):
    """Add a film in which something is said: its indexer reads lines at the end of the file."""
    path = tmp_path / name
    path.write_bytes(film.read_bytes() + f"\n7 {text}\n".encode())
    add(page, path)


def test_a_moment_is_found_and_opened(page, film, tmp_path):
    said(page, film, tmp_path, "a<b>c.mp4", "<img src=x onerror=alert(3)> otter")
    said(page, film, tmp_path, "other.mp4", "nothing of the kind")
    page.fill("#query", "otter")
    page.keyboard.press("Enter")
    hit = page.locator("#found li", has_text="otter").first
    expect(hit.locator("mark")).to_have_text("otter")
    expect(hit.locator(".said")).to_have_text("<img src=x onerror=alert(3)> otter")
    assert page.locator("#found .said img").count() == 0
    hit.click()
    expect(page.locator("#about")).to_have_text("a<b>c.mp4")
    until(page, "player.currentTime === 7")
    expect(page.locator("#timeline button")).to_have_count(1)
    page.fill("#query", '"wombat"')
    page.keyboard.press("Enter")
    expect(page.locator("#found-notes")).to_contain_text("Nothing was found. Phrases in quotation marks must occur")


def test_the_best_is_asked(page, film, tmp_path):
    said(page, film, tmp_path, "sure.mp4", "the walrus sings")
    page.fill("#query", "walrus")
    page.click("#best")
    box = page.locator("#best-answer")
    expect(box.locator(".said")).to_have_text("hello")
    expect(box).to_contain_text("From sure.mp4 (90 % sure)")
    box.get_by_role("button").click()
    expect(page.locator("#about")).to_have_text("sure.mp4")
    until(page, "player.currentTime === 4")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(page, film, scheme):
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    add(page, film)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_key_is_asked_for(browser, addresses):
    page = browser.new_page()
    page.goto(addresses[1])
    page.fill("#key", "a wrong key of some length")
    page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_contain_text("does not know this key")
    page.fill("#key", KEYS[0])
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_text("fake on cpu")
    page.close()

"""Streams on the page, in a real Chromium."""

from __future__ import annotations

import os

import pytest
from playwright.sync_api import expect

from tests.server.conftest import settings
from tests.server.test_page import browser, serve  # noqa: F401

pytestmark = pytest.mark.slow


def test_a_stream_is_added_followed_asked_and_removed(browser, tmp_path):  # noqa: F811
    server, address = serve(settings(tmp_path, allowed_streams=("cam",)))
    page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(address)
    expect(page.locator("#streams")).to_be_visible(timeout=15_000)
    page.fill("#stream-url", "rtsp://u:hush@cam/door")
    page.fill("#stream-alert", "Is it?")
    page.click("#add-stream button")
    stream = page.locator("#stream-list > li")
    expect(stream).to_contain_text("rtsp://cam/door")
    expect(stream.locator(".status")).to_contain_text("live")
    expect(stream.locator("ol")).to_contain_text("⚠ <b>?")  # text of others is text
    assert "hush" not in page.content()
    stream.get_by_label("Question about the stream").fill("What is shown?")
    page.get_by_role("button", name="Ask now").click()
    expect(stream.locator("ol")).to_contain_text("What is shown? hello (0:00:00 - 0:00:04)")
    if folder := os.environ.get("VIDEOXL_PICTURES"):
        page.screenshot(path=f"{folder}/streams.png")
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#stream-list > li")).to_have_count(0)
    page.fill("#stream-url", "rtsp://other/door")
    page.click("#add-stream button")
    expect(page.locator("#problem")).to_contain_text("not allowed")
    assert wrong == []
    server.should_exit = True


def test_where_nothing_is_allowed_there_are_no_streams(browser, tmp_path):  # noqa: F811
    server, address = serve(settings(tmp_path))
    page = browser.new_context().new_page()
    page.goto(address)
    expect(page.locator("#main")).to_be_visible(timeout=15_000)
    page.wait_for_timeout(500)
    expect(page.locator("#streams")).to_be_hidden()
    server.should_exit = True

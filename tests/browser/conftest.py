"""A browser for tests of pages: Chromium of the system, driven by Playwright, offline.

A page that logs an error, or asks for anything but files of its own folder, fails its test.
"""

import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VARIABLE = "DREAMBENCH_CHROMIUM"
LOCAL = ("file://", "data:", "http://127.0.0.1:")


def find_chromium():
    """The path of a Chromium, as the variable or PATH name it; None where there is none."""
    named = os.environ.get(VARIABLE)
    return named or next(filter(None, map(shutil.which, NAMES)), None)


# Not of the session: its event loop would be in the way of other tests of this process.
@pytest.fixture(scope="module")
def browser():
    """A running Chromium."""
    path = find_chromium()
    if path is None:
        pytest.skip(f"no Chromium: apt-get install chromium, or name one in {VARIABLE}")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  (loads much)

    # Root has no sandbox to give.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()


class Watched:
    """Opens pages; keeps what they logged and asked for."""

    def __init__(self, browser):
        self.browser, self.faults, self.contexts = browser, [], []

    def open(self, address, *, width=1280, scheme="light", **options):
        """A page of an address or file, once it is loaded."""
        context = self.browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        context.set_default_timeout(10_000)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        page.on("requestfailed", self._note_failure)
        context.route("**/*", self._guard)
        page.goto(address.as_uri() if isinstance(address, Path) else address)
        return page

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def _note_failure(self, request):
        # A reload gives up images that are still being read.
        if request.failure != "net::ERR_ABORTED":
            self.faults.append(f"failed ({request.failure}): {request.url[:200]}")

    def _guard(self, route):
        if route.request.url.startswith(LOCAL):
            route.continue_()
        else:
            self.faults.append(f"asked for {route.request.url}")
            route.abort()


@pytest.fixture
def watched(browser):
    """A browser's pages, which must log nothing and ask nobody; ends all of them."""
    found = Watched(browser)
    yield found
    for context in found.contexts:
        context.close()
    assert found.faults == []


@pytest.fixture(scope="session")
def find_violations():
    """A function that returns what axe-core has against a page, a line each."""
    import axe_playwright_python  # noqa: PLC0415

    source = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()

    def find(page):
        page.evaluate(source)  # Not a script of the page's: its policy stands.
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        return [
            f"{one['id']} ({one['impact']}): {node['target']}"
            for one in found["violations"]
            for node in one["nodes"]
        ]

    return find

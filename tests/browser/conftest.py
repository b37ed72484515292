"""Chromium, and pages in it that may not complain, break the policy, or ask anybody else."""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.programs import program

expect.set_options(timeout=20_000)  # of slow machines; what is there is seen at once

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")  # while Playwright runs, so does its event loop, and others cannot
def browser() -> Iterator[Browser]:
    executable = program("chromium", "chromium-browser", "google-chrome", package="chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS.split())
        yield browser
        browser.close()


class Visits:
    """Opens pages, and notes what they should not do."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.problems: list[str] = []
        self.failures = {"/health/ready"}
        """Ends of URLs that may fail, since it is what a test is about, or the machine is busy: each is a line in the
        console."""

    def __call__(self, url: str, **options: Any) -> Page:
        """Open a page in a context of its own, with these options of Playwright's."""
        context = self.browser.new_context(**({"reduced_motion": "reduce"} | options))
        context.expose_binding("violated", lambda _, directive: self.problems.append(f"violates {directive}"))
        context.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => violated(`${e.violatedDirective} ${e.blockedURI}`))"
        )
        page = context.new_page()
        origin = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/"
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.problems.append(f"throws {error}"))

        def watch(request: Request) -> None:
            if not request.url.startswith((origin, "data:", "blob:")):
                self.problems.append(f"asks {request.url}")

        page.on("request", watch)
        page.goto(url)
        return page

    def _hear(self, message: ConsoleMessage) -> None:
        is_expected = message.text.startswith("Failed to load resource") and message.location["url"].endswith(
            tuple(self.failures)
        )
        if message.type in {"error", "warning"} and not is_expected:
            self.problems.append(f"{message.type}: {message.text} ({message.location['url']})")


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visits]:
    visits = Visits(browser)
    yield visits
    for context in browser.contexts:
        context.close()
    assert not visits.problems


@pytest.fixture
def playground(visit: Visits, server: Any) -> Callable[..., Page]:
    """Opens the playground of `server`, and waits until it knows the models and has its examples."""

    def open_it(**options: Any) -> Page:
        page = visit(server.url, **options)
        page.wait_for_selector("#rerank-model option:not([value=''])", state="attached")
        page.wait_for_selector("#pictures-list li:nth-child(5)")
        return page

    return open_it

"""Visits the web page with a real browser, and hears what a visitor would not see."""

import re
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Response,
    ViewportSize,
    WebSocket,
    expect,
)

DESKTOP = ViewportSize(width=1440, height=900)
PHONE = ViewportSize(width=390, height=844)


class Visits:
    """The visits of one test, each in a context of its own; leaving them checks that nothing went wrong unseen.

    Attributes:
        errors: what the pages wrote to the console as errors, and the exceptions that nobody caught.
        failed: address and reason of the requests that got no answer; those that the page gave up are among them.
        requested: method and address of every request, those for data: and blob: addresses left out.
    """

    def __init__(self, browser: Browser) -> None:
        self.errors: list[str] = []
        self.failed: list[str] = []
        self.requested: list[tuple[str, str]] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._origins: set[str] = set()
        self._expected: list[str] = []

    def __call__(self, url: str, path: str = "/", viewport: ViewportSize = DESKTOP, **options: Any) -> Page:
        """Opens a page of the service at `url`; options are those of Playwright's `new_context`."""
        context = self._browser.new_context(base_url=url, viewport=viewport, **options)
        self._contexts.append(context)
        self._origins.add(urlsplit(url).netloc)
        context.on("console", self._hear)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", self._note)
        context.on("requestfailed", lambda request: self.failed.append(f"{request.url}: {request.failure}"))
        context.on("page", lambda page: page.on("websocket", self._note))
        page = context.new_page()
        page.goto(path)
        return page

    def expect_error(self, pattern: str) -> None:
        """Forgives errors in which this regular expression is found, such as `status of 429`; one must come."""
        self._expected.append(pattern)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location['url']})")

    def _note(self, asked: Request | WebSocket) -> None:
        if urlsplit(asked.url).netloc:
            self.requested.append((getattr(asked, "method", "GET"), asked.url))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for context in self._contexts:
            context.close()
        if kind is None:
            self._check()

    def _check(self) -> None:
        unexpected = [text for text in self.errors if not any(re.search(each, text) for each in self._expected)]
        assert not unexpected, "\n".join(unexpected)
        missed = [each for each in self._expected if not any(re.search(each, text) for text in self.errors)]
        assert not missed, f"expected, and not seen: {missed}"
        elsewhere = [url for _, url in self.requested if urlsplit(url).netloc not in self._origins]
        assert not elsewhere, f"the page asked other hosts: {elsewhere}"


def serious_findings(page: Page) -> list[str]:
    """What axe-core finds wrong for people with disabilities, as far as it calls that serious or critical."""
    report = Axe().run(page).response
    return [
        f"{finding['id']} ({finding['impact']}): {finding['help']}: {node['target']} {node['html']}: "
        + "; ".join(check["message"] for check in node["any"] + node["all"] + node["none"])
        for finding in report["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]


def is_explanation(response: Response) -> bool:
    """Whether a response is an explanation."""
    return response.url.endswith("/v1/explain") and response.ok


def choose(page: Page, path: Path) -> dict[str, Any]:
    """Chooses a file, and waits until its explanation is on the screen; answers with the service's reply."""
    with page.expect_response(is_explanation) as answered:
        page.get_by_label("Choose a picture").set_input_files(path)
    expect(page.locator("#frame")).to_have_class(re.compile("explained"))
    return answered.value.json()


def change(page: Page, label: str, value: str) -> dict[str, Any]:
    """Sets a field of the settings; answers with the reply that this brings."""
    with page.expect_response(is_explanation) as answered:
        page.get_by_label(label, exact=True).select_option(value)
    expect(page.locator("#frame")).not_to_have_attribute("aria-busy", "true")
    return answered.value.json()


def compare(page: Page) -> dict[str, Any]:
    """Compares what is chosen; answers with the service's reply."""
    with page.expect_response(lambda response: response.url.endswith("/v1/compare")) as answered:
        page.get_by_role("button", name="Compare", exact=True).click()
    page.locator("#comparison figure").first.wait_for()
    return answered.value.json()


def tab_to(page: Page, wanted: Locator) -> None:
    """Presses Tab until something has the focus."""
    for _ in range(120):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} cannot be reached with the Tab key")

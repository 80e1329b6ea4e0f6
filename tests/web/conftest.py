"""A browser, services to visit with it, and photographs to give them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from testing.pictures import encoded, photograph
from testing.serving import Service, serving
from tests.tools import tool
from tests.web.browsing import Visits

# Root may not use Chromium's sandbox. What the browser asks for on its own account finds no host and no proxy.
_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]

# An explanation on a busy machine takes longer than the five seconds that Playwright's `expect` waits of itself.
_PATIENCE_MS = 30_000


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service as it comes, with the network that needs no download."""
    # On a machine that other tests keep busy, what is shown running would be refused for its time.
    with serving(tmp_path_factory.mktemp("service"), timeout_s=600) as running:
        yield running


@pytest.fixture(scope="package")
def odd_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with more networks: labels that can be mistaken, two classes only, layers by other names, 12 bits."""
    with serving(
        tmp_path_factory.mktemp("odd"), models="tf_efficientnet_lite0,small,vit,pair,film", trunk="eager"
    ) as running:
        yield running


@pytest.fixture(scope="package")
def key() -> str:
    """Opens the guarded service."""
    return "0123456789abcdef-alice"


@pytest.fixture(scope="package")
def guarded_service(tmp_path_factory: pytest.TempPathFactory, key: str) -> Iterator[Service]:
    """A service that asks for a key."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys"
    keys.write_text(f"alice: {key}\n")
    with serving(folder, api_keys_file=keys, trunk="eager") as running:
        yield running


@pytest.fixture(scope="package")
def small_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that answers one request at a time and refuses the others."""
    with serving(tmp_path_factory.mktemp("narrow"), queue_size=1, trunk="eager") as running:
        yield running


@pytest.fixture(scope="package", autouse=True)
def chromium() -> str:
    """The browser's program, sought before any service starts in vain."""
    return shutil.which("chromium") or shutil.which("google-chrome") or tool("chromium", "chromium")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Lives as long as a file of tests: while it does, Playwright's loop keeps `asyncio.run` from every other test."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_OPTIONS)
        expect.set_options(timeout=_PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visits]:
    """Opens pages; the test fails where one complains on its console or asks another host than its service."""
    with Visits(browser) as visits:
        yield visits


@pytest.fixture(scope="package")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files to upload, by name: JPEGs as they are, and `chelsea_500`, whose longer side has 500 px."""
    pictures = {name: photograph(name) for name in ("chelsea", "coffee", "astronaut", "rocket")}
    chelsea = pictures["chelsea"]
    pictures["chelsea_500"] = chelsea.resize((500, round(500 * chelsea.height / chelsea.width)))
    folder = tmp_path_factory.mktemp("photographs")
    paths = {name: folder / f"{name}.jpg" for name in pictures}
    for name, path in paths.items():
        path.write_bytes(encoded(pictures[name], "JPEG", quality=90))
    return paths

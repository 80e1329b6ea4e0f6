"""What the page shows while there is no answer, or none but an error."""

import http.client
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from playwright.sync_api import expect

from testing.serving import Service, serving
from tests.web.browsing import Visits, change, choose

# Seconds of work on any machine.
LONG = {"method": "scorecam", "metrics": "false"}
_WAIT_S = 60


@contextmanager
def occupied(service: Service, picture: Path) -> Iterator[None]:
    """Has the service do something long, until the context ends and the caller hangs up."""
    connection = http.client.HTTPConnection(httpx.URL(service.url).netloc.decode())
    headers = {"Content-Type": "image/jpeg", "X-Request-ID": "long"}
    connection.request("POST", f"/v1/explain?{urlencode(LONG)}", picture.read_bytes(), headers)
    deadline = time.monotonic() + _WAIT_S
    while httpx.get(f"{service.url}/v1/requests/long").json()["state"] != "running":
        assert time.monotonic() < deadline
    try:
        yield
    finally:
        connection.close()


def test_a_service_that_is_not_ready_is_waited_for(visit: Visits, tmp_path: Path) -> None:
    visit.expect_error("status of 503")
    with serving(tmp_path, ready=False) as starting:
        page = visit(starting.url)
        notice = page.locator("#notice")
        expect(notice).to_contain_text("The service is not ready yet")
        expect(notice).to_contain_text("'tf_efficientnet_lite0' is still loading")
        expect(notice).to_contain_text(re.compile("Trying again in [1-9]"))
        # Who gives up can go on.
        notice.get_by_role("button", name="Cancel").click()
        notice.get_by_role("button", name="Try again").click()
        expect(notice).to_contain_text("Trying again in")
        # A picture may be chosen by now: it is explained as soon as that can be done.
        page.get_by_role("button", name="a rocket").click()
        expect(page.locator("#figures")).to_be_visible(timeout=1e3 * _WAIT_S)
        expect(notice).to_be_hidden()


def test_a_full_queue_is_waited_for(visit: Visits, small_service: Service, photographs: dict[str, Path]) -> None:
    visit.expect_error("status of 429")
    page = visit(small_service.url)
    notice = page.locator("#notice")
    with occupied(small_service, photographs["chelsea"]):
        page.get_by_role("button", name="a rocket").click()
        expect(notice).to_contain_text("The queue is full")
        expect(notice).to_contain_text(re.compile("Trying again in [1-9][0-9]* s"))
    expect(page.locator("#figures")).to_be_visible(timeout=1e3 * _WAIT_S)
    expect(notice).to_be_hidden()


def test_waiting_can_be_given_up(visit: Visits, small_service: Service, photographs: dict[str, Path]) -> None:
    visit.expect_error("status of 429")
    page = visit(small_service.url)
    with occupied(small_service, photographs["chelsea"]):
        page.get_by_role("button", name="a rocket").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#notice")).to_contain_text("Cancelled.")
    asked = [url for _, url in visit.requested if "/v1/" in url]
    page.wait_for_timeout(2500)
    assert [url for _, url in visit.requested if "/v1/" in url] == asked
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#figures")).to_be_visible()


def test_a_long_method_shows_how_far_it_is_and_can_be_cancelled(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    page = visit(service.url)
    choose(page, photographs["chelsea"])
    page.get_by_label("Method", exact=True).select_option("scorecam")
    notice = page.locator("#notice")
    expect(notice).to_contain_text(re.compile(r"At work: [\d.]+ s of about [\d.]+ s"))
    bar = notice.get_by_role("progressbar", name="Progress")
    first = float(bar.evaluate("bar => bar.value"))
    assert 0 < first < 1
    page.wait_for_function("(first) => document.querySelector('#notice progress')?.value > first", arg=first)
    notice.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    expect(notice).to_contain_text("Cancelled.")
    expect(notice.get_by_role("button", name="Try again")).to_be_focused()
    expect(page.locator("#frame")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#caption")).to_contain_text("by shapleycam")
    assert change(page, "Method", "gradcam")["method"] == "gradcam"


def test_the_classes_come_before_an_explanation_that_takes_long(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    page = visit(service.url, "/#method=scorecam")
    page.get_by_label("Choose a picture").set_input_files(photographs["rocket"])
    expect(page.locator("#predictions button").first).to_contain_text("missile")
    expect(page.locator("#notice")).to_contain_text("At work")
    expect(page.locator("#original")).to_be_visible()
    expect(page.locator("#figures")).to_be_hidden()
    # A click on one of them asks for that one instead.
    page.get_by_label("Method", exact=True).select_option("gradcam")
    expect(page.locator("#figures")).to_be_visible()


def test_a_key_is_asked_for_once_and_kept_in_memory_only(
    visit: Visits, guarded_service: Service, key: str, photographs: dict[str, Path]
) -> None:
    visit.expect_error("status of 401")
    page = visit(guarded_service.url)
    dialog = page.get_by_role("dialog", name="An API key is needed")
    expect(dialog).to_be_visible()
    page.get_by_label("API key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("The service does not know this key.")
    # What no header can carry is not sent.
    page.get_by_label("API key", exact=True).fill("abc\u200bdef")
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    page.get_by_label("API key", exact=True).fill(key)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    choose(page, photographs["chelsea"])
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#comparison figure")).to_have_count(6)
    expect(dialog).to_be_hidden()
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
    assert key not in kept + page.content()
    page.reload()
    expect(dialog).to_be_visible()


def test_without_a_key_the_page_says_so_and_asks_again_when_told(
    visit: Visits, guarded_service: Service, key: str
) -> None:
    visit.expect_error("status of 401")
    page = visit(guarded_service.url)
    page.get_by_role("button", name="Not now").click()
    expect(page.locator("#notice")).to_contain_text("An API key is needed.")
    expect(page.locator("#notice")).to_contain_text("Authorization: expected Bearer and a key of this service.")
    page.get_by_role("button", name="Try again").click()
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("button", name="a rocket").click()
    expect(page.locator("#figures")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.jpg", b"These are notes, and no picture.", "415 unsupported_media_type"),
        ("cut.jpg", None, "422 image_unreadable"),
        ("long.jpg", b"\xff\xd8\xff" + bytes(33 << 20), "413 body_too_large"),
    ],
)
def test_a_file_that_cannot_be_explained_brings_the_services_own_words(
    visit: Visits, service: Service, photographs: dict[str, Path], tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    visit.expect_error(f"status of {words[:3]}")
    path = tmp_path / name
    path.write_bytes(content or photographs["coffee"].read_bytes()[:5000])
    page = visit(service.url)
    choose(page, photographs["chelsea"])
    page.get_by_label("Choose a picture").set_input_files(path)
    notice = page.locator("#notice")
    expect(notice).to_contain_text(words)
    answer = httpx.post(f"{service.url}/v1/explain", files={"image": (name, path.read_bytes())}).json()
    expect(notice).to_contain_text(answer["error"][1:])
    # Nothing of the picture before is left to be taken for this one.
    expect(page.locator("#figures")).to_be_hidden()
    expect(page.locator("#predictions button")).to_have_count(0)
    expect(page.locator("#overlay")).to_be_hidden()
    # And nothing is lost.
    choose(page, photographs["chelsea"])
    expect(notice).to_be_hidden()


def test_a_method_that_cannot_be_used_leaves_the_last_explanation(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    visit.expect_error("status of 422")
    page = visit(service.url)
    choose(page, photographs["chelsea"])
    page.get_by_label("Method", exact=True).select_option("cam")
    expect(page.locator("#notice")).to_contain_text("'cam' explains the utility pre-softmax only.")
    expect(page.locator("#notice").get_by_role("button", name="Try again")).to_have_count(0)
    expect(page.locator("#caption")).to_contain_text("by shapleycam")
    change(page, "Utility", "pre-softmax")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#caption")).to_contain_text("by cam, utility pre-softmax")


def test_a_service_that_cannot_be_reached_can_be_tried_again(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    visit.expect_error("ERR_INTERNET_DISCONNECTED")
    page = visit(service.url)
    choose(page, photographs["chelsea"])
    page.context.set_offline(True)
    page.get_by_label("Method", exact=True).select_option("gradcam")
    expect(page.locator("#notice")).to_contain_text("The service cannot be reached.")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#caption")).to_contain_text("by gradcam")


def test_of_many_changes_only_the_last_is_shown(visit: Visits, service: Service, photographs: dict[str, Path]) -> None:
    page = visit(service.url)
    choose(page, photographs["chelsea"])
    for method in ("hirescam", "shapley-sampling", "gradcam-e", "scorecam", "layercam", "xgradcam"):
        page.get_by_label("Method", exact=True).select_option(method)
    expect(page.locator("#caption")).to_contain_text("by xgradcam")
    page.wait_for_timeout(1500)
    expect(page.locator("#caption")).to_contain_text("by xgradcam")
    expect(page.locator("#notice")).to_be_hidden()

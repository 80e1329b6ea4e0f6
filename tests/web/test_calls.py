"""The calls and the link that the page gives away do what the page shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from testing.serving import Service
from tests.web.browsing import Visits, choose
from tests.web.screen import distance, pixels, shown

_MINUTES = 120
# Names that a shell, curl or Python could take for something else.
NAMES = ["photo.jpg", 'it\'s "one"; a, b $HOME `x` \\ ✓.jpg', "-o.jpg", "@x=;type=y.jpg"]
CLIPBOARD = ["clipboard-read", "clipboard-write"]


def copied(page: Page, language: str = "curl") -> str:
    """The call as a click copies it."""
    page.get_by_role("tab", name=language).click()
    page.get_by_role("button", name="Copy the call").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    text = page.evaluate("navigator.clipboard.readText()")
    assert text == page.locator("#call").text_content()
    return text


def run(call: str, language: str, folder: Path, **variables: str) -> None:
    """Runs a call as its reader would: curl in a shell, Python as a script."""
    command = ["sh", "-e"] if language == "curl" else [sys.executable, "-"]
    env = {**os.environ, **variables}
    done = subprocess.run(
        command, input=call.encode(), cwd=folder, env=env, capture_output=True, timeout=_MINUTES, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("language", ["curl", "Python"])
def test_a_copied_call_makes_the_picture_on_the_screen(
    visit: Visits, service: Service, photographs: dict[str, Path], tmp_path: Path, language: str, name: str
) -> None:
    shutil.copy(photographs["chelsea"], tmp_path / name)
    page = visit(service.url, permissions=CLIPBOARD)
    choose(page, tmp_path / name)
    if name == NAMES[0]:
        # Much of what can be set, and a class that is not the predicted one.
        page.get_by_text("More", exact=True).click()
        for label, value in (
            ("Method", "layercam"),
            ("Utility", "log-softmax"),
            ("Colours", "viridis (even, for all eyes)"),
        ):
            page.get_by_label(label, exact=True).select_option(value)
        page.get_by_label("What the network looks at").select_option("the whole picture, letterboxed")
        page.get_by_label("Smoothing").select_option("mean with the mirror image")
        page.get_by_label("Strength").fill("0.8")
        with page.expect_response(re.compile("/v1/explain")):
            page.locator("#predictions button").nth(1).click()
        expect(page.locator("#frame")).not_to_have_attribute("aria-busy", "true")
        expect(page.locator("#caption")).to_contain_text("layercam")
    run(copied(page, language), language, tmp_path)
    assert distance(shown(page), pixels((tmp_path / "overlay.png").read_bytes())) < 1


@pytest.mark.parametrize("language", ["curl", "Python"])
@pytest.mark.parametrize("tab", ["Explain", "Compare"])
def test_a_call_for_an_example_runs_anywhere(
    visit: Visits, service: Service, tmp_path: Path, language: str, tab: str
) -> None:
    page = visit(service.url, permissions=CLIPBOARD)
    page.get_by_role("button", name="a rocket").click()
    expect(page.locator("#figures")).to_be_visible()
    page.get_by_role("tab", name=tab).click()
    run(copied(page, language), language, tmp_path)
    if tab == "Explain":
        assert distance(shown(page), pixels((tmp_path / "overlay.png").read_bytes())) < 1
        return
    page.get_by_role("button", name="Compare", exact=True).click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download as PNG").click()
    saved.value.save_as(tmp_path / "page.png")
    assert distance(*(pixels((tmp_path / name).read_bytes()) for name in ("sheet.png", "page.png"))) < 0.1


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_a_call_reads_the_key_from_the_environment(
    visit: Visits, guarded_service: Service, key: str, tmp_path: Path, language: str
) -> None:
    visit.expect_error("status of 401")
    page = visit(guarded_service.url, permissions=CLIPBOARD)
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("button", name="a cup of coffee").click()
    expect(page.locator("#figures")).to_be_visible()
    call = copied(page, language)
    assert key not in page.content()
    assert "CAM_API_KEY" in call
    run(call, language, tmp_path, CAM_API_KEY=key)
    assert distance(shown(page), pixels((tmp_path / "overlay.png").read_bytes())) < 1


@pytest.mark.parametrize("view", ["Original", "Heatmap"])
def test_a_call_makes_the_view_that_is_shown(visit: Visits, service: Service, tmp_path: Path, view: str) -> None:
    page = visit(service.url, permissions=CLIPBOARD)
    page.get_by_role("button", name="a rocket").click()
    expect(page.locator("#figures")).to_be_visible()
    page.get_by_label(view).check(force=True)
    run(copied(page), "curl", tmp_path)
    assert distance(shown(page), pixels((tmp_path / "overlay.png").read_bytes())) < 1


def test_a_seed_of_any_size_arrives_as_it_is(visit: Visits, service: Service) -> None:
    page = visit(service.url, f"/#example=rocket.jpg&method=randomcam&seed={2**63 - 1}")
    expect(page.locator("#figures")).to_be_visible()
    expect(page.locator("#call")).to_contain_text(f"seed={2**63 - 1}")
    expect(page.get_by_label("Seed")).to_have_value(str(2**63 - 1))


def test_a_call_is_that_of_what_is_on_the_screen_while_something_else_is_refused(
    visit: Visits, service: Service
) -> None:
    visit.expect_error("status of 422")
    page = visit(service.url, "/#example=rocket.jpg&method=gradcam")
    expect(page.locator("#figures")).to_be_visible()
    page.get_by_label("Method", exact=True).select_option("cam")
    expect(page.locator("#notice")).to_contain_text("422")
    expect(page.locator("#caption")).to_contain_text("by gradcam")
    page.get_by_label("Strength").fill("0.3")
    expect(page.locator("#call")).to_contain_text("alpha=0.3")
    expect(page.locator("#call")).to_contain_text("method=gradcam")
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#comparison figure")).to_have_count(6)
    page.get_by_label("fakecam").check()
    expect(page.get_by_text("Made with other settings")).to_be_visible()
    expect(page.locator("#call")).not_to_contain_text("fakecam")


def test_a_call_follows_what_is_set(visit: Visits, service: Service, photographs: dict[str, Path]) -> None:
    page = visit(service.url)
    choose(page, photographs["coffee"])
    call = page.locator("#call")
    expect(call).not_to_contain_text("alpha")
    page.get_by_label("Strength").fill("0.3")
    expect(call).to_contain_text("alpha=0.3")
    page.get_by_role("tab", name="Python").click()
    expect(call).to_contain_text('"alpha": "0.3"')
    expect(page.locator("#call-note")).to_contain_text("Run it where coffee.jpg lies")


def test_a_link_restores_what_is_on_the_screen(visit: Visits, service: Service) -> None:
    page = visit(service.url, permissions=CLIPBOARD)
    page.get_by_role("button", name="a cup of coffee").click()
    expect(page.locator("#figures")).to_be_visible()
    for label, value in (("Layer", "last_conv"), ("Method", "gradcam++"), ("Utility", "pre-softmax")):
        page.get_by_label(label, exact=True).select_option(value)
    page.get_by_label("Strength").fill("0.7")
    page.locator("#predictions").get_by_role("button", name="cup").click()
    expect(page.locator("#caption")).to_contain_text("cup by gradcam++, utility pre-softmax, at last_conv")
    expect(page.locator("#frame")).not_to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Copy a link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    # The address of the page is that link, too: reloading it loses nothing.
    page.wait_for_function("(link) => location.href === link", arg=link)

    other = visit(service.url, link.removeprefix(service.url))
    expect(other.locator("#caption")).to_have_text(page.locator("#caption").text_content())
    expect(other.get_by_label("Strength")).to_have_value("0.7")
    assert (shown(other) == shown(page)).all()


def test_a_link_restores_a_comparison(visit: Visits, service: Service) -> None:
    page = visit(
        service.url, "/#tab=compare&example=chelsea.jpg&methods=gradcam+gradcam%2B%2B&targets=282+least-likely"
    )
    expect(page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("gradcam++")).to_be_checked()
    expect(page.get_by_label("gradcam-e")).not_to_be_checked()
    expect(page.get_by_label("tiger cat")).to_be_checked()
    expect(page.get_by_label("the least likely class")).to_be_checked()
    expect(page.locator("#cell-count")).to_have_text("4 pictures.")


@pytest.mark.parametrize(
    "fragment",
    [
        "model=none_such",
        "method=none_such",
        "utility=<b>x</b>",
        "alpha=seven&nodes=&x=1&tab=other&example=none.jpg",
        "fit=none&show=none&toString=1&alpha=7",
        "%",
    ],
)
def test_a_link_that_does_not_fit_this_service_is_no_dead_end(visit: Visits, service: Service, fragment: str) -> None:
    page = visit(service.url, f"/#{fragment}")
    if "none_such" in fragment or "<b>" in fragment:
        expect(page.locator("#notice")).to_contain_text("which this service does not have")
    page.get_by_role("button", name="a rocket").click()
    expect(page.locator("#figures")).to_be_visible()


def test_a_link_with_a_target_that_there_is_not_shows_the_services_own_words(visit: Visits, service: Service) -> None:
    visit.expect_error("status of 422")
    page = visit(service.url, "/#example=rocket.jpg&target=4000")
    expect(page.locator("#notice")).to_contain_text("target: expected")

"""The page is for everybody: by keyboard, by ear, in the dark, on a phone."""

import matplotlib as mpl
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from testing.serving import Service
from tests.web.browsing import DESKTOP, PHONE, Visits, serious_findings, tab_to

VIEWS = [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light"), (PHONE, "dark")]


@pytest.mark.parametrize(("viewport", "scheme"), VIEWS, ids=[f"{v['width']}-{s}" for v, s in VIEWS])
def test_axe_finds_nothing_serious(
    visit: Visits, service: Service, guarded_service: Service, viewport: dict, scheme: str
) -> None:
    visit.expect_error("status of 422")
    visit.expect_error("status of 401")
    page = visit(service.url, viewport=viewport, color_scheme=scheme)
    expect(page.get_by_label("Network", exact=True)).to_have_value("tf_efficientnet_lite0")
    check(page, "empty")
    if viewport == PHONE:
        page.locator("#settings > summary").click()
    page.get_by_text("More", exact=True).click()
    page.get_by_role("button", name="a cup of coffee").click()
    expect(page.locator("#figures")).to_be_visible()
    page.get_by_text("The attribution as a table").click()
    page.locator("#frame").focus()
    page.keyboard.press("ArrowDown")
    check(page, "explained")
    page.get_by_role("button", name="the least likely one").click()
    expect(page.locator("#warnings")).to_be_visible()
    page.get_by_label("Method", exact=True).select_option("scorecam")
    expect(page.locator("#notice progress")).to_be_visible()
    check(page, "warnings and progress")
    page.get_by_label("Method", exact=True).select_option("cam")
    expect(page.locator("#notice")).to_contain_text("cam")
    expect(page.locator("#notice")).to_contain_text("422")
    check(page, "error")
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#comparison figure")).to_have_count(6)
    check(page, "compare")
    other = visit(guarded_service.url, viewport=viewport, color_scheme=scheme)
    expect(other.get_by_role("dialog")).to_be_visible()
    check(other, "key")


def check(page: Page, view: str) -> None:
    """What axe finds, and whether anything sticks out to the side."""
    assert serious_findings(page) == [], view
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


def test_everything_can_be_done_by_keyboard(visit: Visits, service: Service) -> None:
    page = visit(service.url)
    keyboard = page.keyboard
    # Playwright begins to catch file dialogs when somebody listens, and not at once.
    page.on("filechooser", lambda _chooser: None)
    expect(page.get_by_label("Network", exact=True)).to_have_value("tf_efficientnet_lite0")
    tab_to(page, page.get_by_role("link", name="Skip to the picture"))
    # The way to the file is there, and its dialog is the browser's.
    tab_to(page, page.get_by_label("Choose a picture"))
    with page.expect_file_chooser():
        keyboard.press("Enter")
    tab_to(page, page.get_by_role("button", name="a cup of coffee"))
    keyboard.press("Enter")
    expect(page.locator("#caption strong")).to_have_text("espresso")
    expect(page.locator("#announcer")).to_contain_text("espresso")
    tab_to(page, page.get_by_label("Method", exact=True))
    for _ in range(3):
        keyboard.press("ArrowDown")
    expect(page.locator("#caption")).to_contain_text("by gradcam,")
    tab_to(page, page.get_by_role("tab", name="Explain"))
    tab_to(page, page.locator("#frame"))
    keyboard.press("ArrowDown")
    expect(page.locator("#readout")).to_contain_text("Row ")
    tab_to(page, page.get_by_label("Overlay"))
    keyboard.press("ArrowRight")
    expect(page.get_by_label("Heatmap")).to_be_checked()
    keyboard.press("ArrowLeft")
    tab_to(page, page.get_by_label("Strength"))
    keyboard.press("End")
    expect(page.locator("#alpha-value")).to_have_text("100%")
    second = page.locator("#predictions button").nth(1)
    tab_to(page, second)
    keyboard.press("Space")
    expect(page.locator("#caption strong")).to_have_text("cup")
    # The list was made anew, and the focus stayed where it was.
    expect(second).to_be_focused()
    tab_to(page, page.get_by_label("Explain another class"))
    keyboard.type("teapot")
    keyboard.press("Enter")
    expect(page.locator("#caption strong")).to_have_text("teapot")
    tab_to(page, page.get_by_role("tab", name="curl"))
    keyboard.press("ArrowRight")
    expect(page.locator("#call")).to_contain_text("import httpx")
    keyboard.press("Home")
    # Around the end of the page to its beginning.
    page.locator("body").evaluate("body => { body.tabIndex = -1; body.focus(); body.removeAttribute('tabindex'); }")
    tab_to(page, page.get_by_role("tab", name="Explain"))
    keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name="Compare")).to_be_visible()
    tab_to(page, page.get_by_label("fakecam"))
    keyboard.press("Space")
    tab_to(page, page.get_by_role("button", name="Compare", exact=True))
    keyboard.press("Enter")
    expect(page.locator("#comparison figure")).to_have_count(7)
    tab_to(page, page.get_by_label("Sort by"))
    keyboard.press("ArrowDown")
    expect(page.get_by_label("Sort by")).to_have_value("adcc")
    expect(page.get_by_label("Sort by")).to_be_focused()
    tab_to(page, page.get_by_role("button", name="Open").first)
    keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Explain")).to_be_focused()


def test_dark_and_light_follow_the_system_until_the_reader_chooses(visit: Visits, service: Service) -> None:
    page = visit(service.url, color_scheme="dark")
    body = page.locator("body")
    dark = body.evaluate("body => getComputedStyle(body).backgroundColor")
    page.emulate_media(color_scheme="light")
    expect(body).not_to_have_css("background-color", dark)
    page.get_by_role("button", name="Use dark colours").click()
    expect(body).to_have_css("background-color", dark)
    page.reload()
    expect(body).to_have_css("background-color", dark)
    page.get_by_role("button", name="Use light colours").click()
    expect(body).not_to_have_css("background-color", dark)


def test_legends_have_the_colours_of_matplotlib(visit: Visits, service: Service) -> None:
    page = visit(service.url)
    offered = page.evaluate("async () => (await import('/page/colormaps.js')).COLORMAPS")
    assert page.get_by_label("Colours").locator("option").count() == len(offered) > 5
    for name, (_words, colours) in offered.items():
        exact = mpl.colormaps[name](np.linspace(0, 1, 9), bytes=True)[:, :3]
        assert colours.split() == ["#" + bytes(colour).hex() for colour in exact]

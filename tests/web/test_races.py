"""Whatever comes late or twice, the page shows what was chosen last."""

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from testing.pictures import encoded, gradient
from testing.serving import Service
from tests.web.browsing import PHONE, Visits, change, choose
from tests.web.screen import distance, overlay, shown


def delay(page: Page, pattern: str, ms: int) -> None:
    """Has the replies to some requests come late."""

    def hold(route: Route) -> None:
        page.wait_for_timeout(ms)
        route.continue_()

    page.route(re.compile(pattern), hold)


def test_a_picture_that_is_read_slowly_does_not_come_over_a_later_one(
    visit: Visits, service: Service, photographs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "huge.jpg").write_bytes(encoded(Image.fromarray(gradient(7000, 7000)), "JPEG"))
    page = visit(service.url)
    page.get_by_label("Choose a picture").set_input_files(tmp_path / "huge.jpg")
    page.get_by_label("Choose a picture").set_input_files(photographs["coffee"])
    expect(page.locator("#caption strong")).to_have_text("espresso")
    page.wait_for_timeout(2000)
    expect(page.locator("#picture-name")).to_contain_text("coffee.jpg")
    page.get_by_label("Original").check(force=True)
    assert distance(shown(page), overlay(service, photographs["coffee"], alpha="0")) < 1


def test_an_example_that_comes_slowly_does_not_come_over_a_later_picture(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    page = visit(service.url)
    delay(page, "examples/chelsea.jpg", 1500)
    page.get_by_role("button", name="a cat").click()
    choose(page, photographs["rocket"])
    page.wait_for_timeout(2500)
    expect(page.locator("#picture-name")).to_contain_text("rocket.jpg")
    expect(page.locator("#caption strong")).to_have_text("missile")


def test_a_picture_chosen_while_the_page_starts_is_not_lost_to_the_links_own(visit: Visits, service: Service) -> None:
    visit.expect_error("status of 404")
    page = visit(service.url, "/missing")
    held: list[Route] = []
    page.route(re.compile("/v1/models$"), lambda route: held.append(route))
    page.goto("/#example=chelsea.jpg")
    delay(page, "examples/rocket.jpg", 1000)
    page.get_by_role("button", name="a rocket").click()
    for route in held:
        route.continue_()
    expect(page.locator("#caption strong")).to_have_text("missile")
    page.wait_for_timeout(1500)
    expect(page.locator("#picture-name")).to_contain_text("rocket.jpg")
    expect(page.locator("#caption strong")).to_have_text("missile")


def test_networks_can_be_changed_faster_than_they_are_described(
    visit: Visits, odd_service: Service, photographs: dict[str, Path]
) -> None:
    page = visit(odd_service.url)
    choose(page, photographs["coffee"])
    delay(page, "/v1/models/small$", 1000)
    page.get_by_label("Network", exact=True).select_option("small")
    page.get_by_label("Network", exact=True).select_option("vit")
    expect(page.locator("#caption")).to_contain_text("of vit.")
    page.wait_for_timeout(1500)
    expect(page.locator("#caption")).to_contain_text("of vit.")
    expect(page.locator("#notice")).to_be_hidden()
    layer = page.get_by_label("Layer", exact=True)
    expect(layer).to_have_value("last_norm")
    # And back again: nothing of the other network is left.
    assert change(page, "Network", "tf_efficientnet_lite0")["layer"] == "pre_gap"
    expect(layer).to_have_value("pre_gap")
    expect(page.get_by_label("Path of the module")).to_be_hidden()


def test_a_comparison_says_so_where_something_was_changed_while_it_was_made(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    page = visit(service.url)
    choose(page, photographs["coffee"])
    page.get_by_role("tab", name="Compare").click()
    delay(page, "/v1/compare", 1000)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_label("Layer", exact=True).select_option("last_conv")
    expect(page.locator("#comparison figure")).to_have_count(6)
    expect(page.get_by_text("Made with other settings")).to_be_visible()
    expect(page.locator("#compare")).not_to_have_attribute("aria-busy", "true")


def test_an_explanation_that_a_comparison_interrupts_is_made_when_one_looks(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    page = visit(service.url, "/#method=scorecam")
    page.get_by_label("Choose a picture").set_input_files(photographs["coffee"])
    expect(page.locator("#predictions button").first).to_be_visible()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#comparison figure")).to_have_count(6)
    expect(page.locator("#frame")).not_to_have_attribute("aria-busy", "true")
    page.get_by_role("tab", name="Explain").click()
    expect(page.locator("#notice")).to_contain_text("At work")
    change(page, "Method", "gradcam")
    expect(page.locator("#caption")).to_contain_text("by gradcam")


def test_another_link_in_the_same_window_is_followed_and_other_fragments_are_not(
    visit: Visits, service: Service
) -> None:
    page = visit(service.url, "/#example=rocket.jpg&method=gradcam")
    expect(page.locator("#caption")).to_contain_text("by gradcam")
    page.get_by_role("link", name="Skip to the picture").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#stage")).to_be_focused()
    page.evaluate("location.hash = 'stage'")
    page.wait_for_timeout(500)
    expect(page.get_by_label("Method", exact=True)).to_have_value("gradcam")
    page.evaluate("location.hash = 'example=coffee.jpg&method=layercam&target=968'")
    expect(page.locator("#caption")).to_contain_text("Evidence for cup by layercam")


@pytest.mark.parametrize("target", ["5", "6"], ids=["letters", "3,000 characters"])
def test_labels_of_any_length_and_kind_stay_within_the_page(visit: Visits, odd_service: Service, target: str) -> None:
    for options in ({}, {"viewport": PHONE}):
        page = visit(odd_service.url, f"/#model=small&target={target}&example=chelsea.jpg", **options)
        expect(page.locator("#figures")).to_be_visible()
        page.locator("#frame").focus()
        page.keyboard.press("ArrowDown")
        page.get_by_role("tab", name="Compare").click()
        page.get_by_label("least likely").check()
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(page.locator("#comparison figure")).to_have_count(12)
        page.get_by_label("Sort by").select_option("adcc")
        with page.expect_download():
            page.get_by_role("button", name="Download as PNG").click()
        for tab in ("Compare", "Explain"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab


def test_classes_of_one_name_can_be_told_apart(visit: Visits, odd_service: Service) -> None:
    page = visit(odd_service.url, "/#model=small&target=1&example=chelsea.jpg")
    expect(page.locator("#figures")).to_be_visible()
    labels = page.locator("#predictions .label").all_inner_texts()
    assert len(set(labels)) == len(labels)
    page.get_by_label("Explain another class").fill("Cardigan")
    page.keyboard.press("Enter")
    expect(page.locator("#caption strong")).to_have_text("Cardigan")
    page.get_by_label("Explain another class").fill("crane")
    page.keyboard.press("Enter")
    expect(page.locator("#caption strong")).to_have_text("Cardigan")
    assert page.locator("#other-class").evaluate("field => !field.validity.valid")


def test_a_network_of_two_classes_and_other_layers_is_explained(visit: Visits, odd_service: Service) -> None:
    page = visit(odd_service.url, "/#model=pair&example=chelsea.jpg")
    expect(page.locator("#predictions button")).to_have_count(2)
    expect(page.locator("#caption")).to_contain_text("of pair.")


def test_fits_that_show_the_whole_picture_place_cells_where_they_are(visit: Visits, service: Service) -> None:
    page = visit(service.url, "/#fit=pad&example=coffee.jpg")
    expect(page.locator("#figures")).to_be_visible()
    frame = page.locator("#frame").bounding_box()
    # 600 x 400 px: the square that the network sees exceeds the picture by 100 px above and below.
    side = frame["width"]
    page.mouse.move(frame["x"] + 0.5 * side, frame["y"] + 1)
    row = 1 + int((100 / 600 + 1 / side) * 7)
    expect(page.locator("#readout")).to_contain_text(f"Row {row}, column 4")
    page.locator("#frame").focus()
    for key in ("ArrowDown", *["ArrowUp"] * 7):
        page.keyboard.press(key)
    expect(page.locator("#readout")).to_contain_text("in the margin around the picture")

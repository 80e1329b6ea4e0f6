"""Explanations side by side."""

import base64
import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.api.serving import Service
from tests.web.browsing import DESKTOP, PHONE, Visits, choose
from tests.web.screen import pixels


def compare(page: Page) -> dict:
    """Compares what is chosen; answers with the service's reply."""
    with page.expect_response(lambda response: response.url.endswith("/v1/compare")) as answered:
        page.get_by_role("button", name="Compare", exact=True).click()
    page.locator("#comparison figure").first.wait_for()
    return answered.value.json()


def names(page: Page) -> list[tuple[str, str]]:
    """Class, and method with utility, of each picture in the order on the screen."""
    return [
        (row.locator("h3").evaluate("title => title.firstChild.data"), " ".join(caption.split("\n")[0].split()))
        for row in page.locator("#comparison .row").all()
        for caption in row.locator("figcaption").evaluate_all(
            "all => all.map((one) => one.childNodes[0].textContent + one.childNodes[1].data)"
        )
    ]


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize(("preset", "rows", "columns"), [("Methods", 1, 10), ("Utilities", 1, 8), ("Targets", 3, 2)])
def test_the_papers_figures_are_one_click_away(
    visit: Visits, service: Service, photographs: dict[str, Path], preset: str, rows: int, columns: int, viewport: dict
) -> None:
    page = visit(service.url, viewport=viewport)
    choose(page, photographs["coffee"])
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("group", name="As in the paper").get_by_role("button", name=preset).click()
    expect(page.locator("#cell-count")).to_have_text(f"{rows * columns} pictures.")
    reply = compare(page)
    expect(page.locator("#comparison .row")).to_have_count(rows)
    wanted = [(e["target"]["label"], f"{e['method']} {e['utility']}") for e in reply["explanations"]]
    assert names(page) == wanted
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


def test_sorting_by_adcc_moves_pictures_with_their_captions(
    visit: Visits, service: Service, photographs: dict[str, Path], tmp_path: Path
) -> None:
    page = visit(service.url)
    choose(page, photographs["chelsea"])
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("randomcam").check()
    page.get_by_label("the least likely class").check()
    reply = compare(page)
    as_asked = pictures(page)
    before = names(page)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download as PNG").click()
    saved.value.save_as(tmp_path / "asked.png")
    assert (tmp_path / "asked.png").read_bytes() == base64.b64decode(reply["sheet"]["b64"])

    page.get_by_label("Sort by").select_option("ADCC, highest first")
    after, sorted_pictures = names(page), pictures(page)
    assert sorted(after) == sorted(before)
    assert after != before
    scores = {
        (e["target"]["label"], f"{e['method']} {e['utility']}"): e["metrics"]["adcc"] for e in reply["explanations"]
    }
    columns = len(reply["method"])
    for row in (after[:columns], after[columns:]):
        assert len({label for label, _ in row}) == 1
        values = [scores[name] for name in row]
        assert values == sorted(values, reverse=True)
    assert {name: sorted_pictures[at] for at, name in enumerate(after)} == {
        name: as_asked[at] for at, name in enumerate(before)
    }
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download as PNG").click()
    saved.value.save_as(tmp_path / "sorted.png")
    # The best picture of the first class comes first in the file, too.
    assert is_part(picture(page, 0), pixels((tmp_path / "sorted.png").read_bytes()))


def pictures(page: Page) -> list[str]:
    """The pictures in the order on the screen."""
    return page.locator("#comparison canvas").evaluate_all("all => all.map((canvas) => canvas.toDataURL())")


def picture(page: Page, number: int) -> np.ndarray:
    """One of them, HWC."""
    return pixels(base64.b64decode(pictures(page)[number].split(",")[1]))


def is_part(part: np.ndarray, whole: np.ndarray) -> bool:
    """Whether a picture stands unchanged somewhere in the upper left quarter of another."""
    height, width = part.shape[:2]
    places = np.argwhere((whole[:120, :60] == part[0, 0]).all(axis=2))
    return any(np.array_equal(whole[y : y + height, x : x + width], part) for y, x in places)


def test_pictures_are_those_of_the_sheet(visit: Visits, service: Service, photographs: dict[str, Path]) -> None:
    page = visit(service.url)
    choose(page, photographs["rocket"])
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("pre-softmax").check()
    compare(page)
    fields = {"method": ["shapleycam", "gradcam", "hirescam", "layercam", "xgradcam", "gradcam++"]}
    fields["utility"] = ["rest", "pre-softmax"]
    with photographs["rocket"].open("rb") as file:
        answer = httpx.post(
            f"{service.url}/v1/compare", files={"image": file}, data=fields, headers={"Accept": "image/png"}
        )
    sheet = pixels(answer.raise_for_status().content)
    layout = json.loads(answer.headers["X-Sheet"])
    for number in range(layout["columns"]):
        shown = picture(page, number)
        left, top = layout["left"] + number * layout["across"], layout["top"]
        cut = sheet[top : top + layout["height"], left : left + layout["width"]]
        assert shown.shape == cut.shape
        assert abs(shown - cut).mean() < 0.1


def test_one_picture_of_a_comparison_opens_by_itself(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    page = visit(service.url)
    choose(page, photographs["coffee"])
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("group", name="As in the paper").get_by_role("button", name="Targets").click()
    reply = compare(page)
    wanted = reply["explanations"][3]
    with page.expect_response(lambda response: response.url.endswith("/v1/explain")) as answered:
        page.get_by_role("button", name="Open").nth(3).click()
    [explanation] = answered.value.json()["explanations"]
    assert (explanation["method"], explanation["target"]["index"]) == (wanted["method"], wanted["target"]["index"])
    expect(page.get_by_role("tab", name="Explain")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#caption strong")).to_have_text(wanted["target"]["label"])


def test_too_many_or_no_pictures_are_not_asked_for(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    page = visit(service.url)
    choose(page, photographs["coffee"])
    page.get_by_role("tab", name="Compare").click()
    for box in page.get_by_role("group", name="Methods").get_by_role("checkbox").all():
        box.check()
    for box in page.get_by_role("group", name="Utilities").get_by_role("checkbox").all():
        box.check()
    run = page.get_by_role("button", name="Compare", exact=True)
    expect(run).to_be_disabled()
    expect(page.locator("#cell-count")).to_have_text("68 pictures; at most 64.")
    for box in page.get_by_role("group", name="Utilities").get_by_role("checkbox").all():
        box.uncheck()
    expect(run).to_be_disabled()
    expect(page.locator("#cell-count")).to_contain_text("at least one")


def test_what_is_not_what_is_chosen_any_more_says_so(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    page = visit(service.url)
    choose(page, photographs["coffee"])
    page.get_by_role("tab", name="Compare").click()
    compare(page)
    stale = page.get_by_text("Made with other settings")
    expect(stale).to_be_hidden()
    page.get_by_label("shapleycam-h").check()
    expect(stale).to_be_visible()
    page.get_by_label("shapleycam-h").uncheck()
    expect(stale).to_be_hidden()
    page.get_by_label("Layer", exact=True).select_option("last_conv")
    expect(stale).to_be_visible()
    page.get_by_label("Layer", exact=True).select_option("pre_gap")
    expect(stale).to_be_hidden()
    # To open one of them alone changes nothing of the comparison, which is there when one comes back.
    page.get_by_role("button", name="Open").nth(2).click()
    expect(page.locator("#caption")).to_contain_text("by hirescam")
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#comparison figure")).to_have_count(6)
    expect(stale).to_be_hidden()


def test_the_predicted_class_can_be_asked_for_by_its_index(visit: Visits, service: Service) -> None:
    page = visit(service.url, "/#tab=compare&example=coffee.jpg&targets=967")
    expect(page.get_by_label(re.compile("^espresso"))).to_be_checked()
    expect(page.get_by_label("predicted: espresso")).not_to_be_checked()

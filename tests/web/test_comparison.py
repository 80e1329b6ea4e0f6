"""Explanations side by side."""

import base64
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from testing.serving import Service
from tests.web.browsing import DESKTOP, PHONE, Visits, choose, compare
from tests.web.screen import distance, overlay, pixels


def names(page: Page) -> list[tuple[str, str]]:
    """Class, and method with utility, of each picture in the order on the screen."""
    return [
        (
            row.get_by_role("rowheader").evaluate("title => title.firstChild.data"),
            " ".join(caption.split("\n")[0].split()),
        )
        for row in page.locator("#comparison tbody").get_by_role("row").all()
        for caption in row.locator("figcaption").evaluate_all(
            "all => all.map((one) => one.childNodes[0].textContent + one.childNodes[1].data)"
        )
    ]


def headings(page: Page) -> list[str]:
    """Those of the columns that have pictures."""
    table = page.get_by_role("table", name="Explanations side by side")
    return [" ".join(heading.split()) for heading in table.get_by_role("columnheader").all_text_contents()[1:]]


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
    expect(page.locator("#comparison tbody").get_by_role("row")).to_have_count(rows)
    assert headings(page) == [f"{method}, {utility}" for method in reply["method"] for utility in reply["utility"]]
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
    fields = {"method": reply["method"], "target": ["predicted", "least-likely"]}
    sheet = sheet_of(service, photographs["chelsea"], fields)
    assert distance(downloaded(page, tmp_path), sheet) < 0.1

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
    assert headings(page) == [f"Place {place} by ADCC" for place in range(1, columns + 1)]
    # The file keeps the order as asked, whose columns have one method each.
    assert distance(downloaded(page, tmp_path), sheet) < 0.1


def downloaded(page: Page, folder: Path) -> np.ndarray:
    """The sheet as the page saves it, HWC."""
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download as PNG").click()
    saved.value.save_as(folder / "sheet.png")
    return pixels((folder / "sheet.png").read_bytes())


def sheet_of(service: Service, path: Path, fields: dict[str, list[str]]) -> np.ndarray:
    """The sheet as the service draws it, HWC."""
    headers = {"Accept": "image/png"}
    answer = httpx.post(
        f"{service.url}/v1/compare", files={"image": path.read_bytes()}, data=fields, headers=headers, timeout=60
    )
    return pixels(answer.raise_for_status().content)


def pictures(page: Page) -> list[str]:
    """The pictures in the order on the screen."""
    return page.locator("#comparison img").evaluate_all("all => all.map((image) => image.src)")


def picture(page: Page, number: int) -> np.ndarray:
    """One of them, HWC."""
    return pixels(base64.b64decode(pictures(page)[number].split(",")[1]))


def test_pictures_are_the_overlays_of_the_cells_and_those_of_the_sheet(
    visit: Visits, service: Service, photographs: dict[str, Path]
) -> None:
    page = visit(service.url)
    choose(page, photographs["rocket"])
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("pre-softmax").check()
    reply = compare(page)
    assert reply["sheet"] is None
    fields = {"method": ["shapleycam", "gradcam", "hirescam", "layercam", "xgradcam", "gradcam++"]}
    fields |= {"utility": ["rest", "pre-softmax"], "metrics": ["false"]}
    sheet = sheet_of(service, photographs["rocket"], fields)
    # The first line of pixels lies above what the network saw, and is the same in all.
    line = picture(page, 0)[0]
    width = len(line)
    starts = np.argwhere((sheet[:, : sheet.shape[1] - width + 1] == line[0]).all(axis=2))
    found = [(top, left) for top, left in starts if np.array_equal(sheet[top, left : left + width], line)]
    assert len(found) == len(reply["explanations"])
    alone = {"max_side": "256", "include": "overlay"}
    for number, (explanation, (top, left)) in enumerate(zip(reply["explanations"], found, strict=True)):
        shown = picture(page, number)
        assert distance(shown, sheet[top : top + len(shown), left : left + width]) < 0.1
        asked = {name: explanation[name] for name in ("method", "utility")} | alone
        assert distance(shown, overlay(service, photographs["rocket"], **asked)) < 0.1
        alt = page.locator("#comparison img").nth(number).get_attribute("alt")
        assert alt == f"Evidence for {explanation['target']['label']} by {asked['method']}, {asked['utility']}"


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

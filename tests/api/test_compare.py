"""POST /v1/compare: explanations side by side, each as /v1/explain gives it alone."""

import base64
from io import BytesIO
from itertools import product
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from testing.pictures import UInt8, encoded, photograph
from tests.api.asking import JPEG, ask, ask_one, pixels, values

# In no order that anything else knows, and such that no two cells look alike.
TARGETS = ["lynx", "predicted"]
METHODS = ["shapleycam-h", "gradcam"]
UTILITIES = ["post-softmax", "rest"]
CELLS = list(product(TARGETS, METHODS, UTILITIES))
FIELDS: dict[str, Any] = {"layer": "last_conv", "target": TARGETS, "method": METHODS, "utility": UTILITIES}
REPLY = [
    "model",
    "layer",
    "layer_path",
    "method",
    "utility",
    "device",
    "weights",
    "image",
    "view",
    "predictions",
    "explanations",
    "sheet",
    "timing_ms",
]


def compare(client: httpx.Client, image: bytes, **fields: Any) -> dict[str, Any]:
    return ask(client, image, "/v1/compare", **fields)


def places(sheet: UInt8, line: UInt8) -> list[tuple[int, int]]:
    """Where (top, left) a sheet shows a line of pixels, in reading order."""
    width = len(line)
    starts = np.argwhere((sheet[:, : sheet.shape[1] - width + 1] == line[0]).all(axis=2))
    return [(top, left) for top, left in starts.tolist() if np.array_equal(sheet[top, left : left + width], line)]


def cells_of(sheet: UInt8, like: UInt8) -> list[UInt8]:
    """Cuts the pictures out of a sheet: their top line, above what the network saw, is the same in all."""
    height, width, _ = like.shape
    return [sheet[top : top + height, left : left + width] for top, left in places(sheet, like[0])]


@pytest.fixture(scope="module")
def comparison(client: httpx.Client, chelsea: bytes) -> dict[str, Any]:
    return compare(client, chelsea, **FIELDS)


@pytest.fixture(scope="module")
def bare(client: httpx.Client, chelsea: bytes) -> dict[str, Any]:
    """The comparison without quality figures, and so without notes over its pictures."""
    return compare(client, chelsea, metrics="false", **FIELDS)


@pytest.fixture(scope="module")
def alone(client: httpx.Client, chelsea: bytes) -> list[dict[str, Any]]:
    """Each cell's explanation as `/v1/explain` answers."""
    return [
        ask_one(client, chelsea, layer="last_conv", target=target, method=method, utility=utility, max_side=256)
        for target, method, utility in CELLS
    ]


def test_the_reply_has_the_keys_of_the_contract_and_no_others(
    comparison: dict[str, Any], alone: list[dict[str, Any]]
) -> None:
    assert list(comparison) == REPLY
    assert (comparison["layer"], comparison["layer_path"]) == ("last_conv", "conv_head")
    assert (comparison["method"], comparison["utility"]) == (METHODS, UTILITIES)
    assert len(comparison["predictions"]) == 5
    assert list(comparison["sheet"]) == ["media_type", "width", "height", "b64"]
    for explanation in comparison["explanations"]:
        assert list(explanation) == list(alone[0])
        assert explanation["heatmap"] is explanation["overlay"] is None


def test_explanations_come_by_target_then_method_then_utility(
    comparison: dict[str, Any], alone: list[dict[str, Any]]
) -> None:
    classes = {target: explanation["target"]["index"] for (target, _, _), explanation in zip(CELLS, alone, strict=True)}
    assert classes["lynx"] == 287
    assert classes["predicted"] == comparison["predictions"][0]["index"]
    found = [(e["target"]["index"], e["method"], e["utility"]) for e in comparison["explanations"]]
    assert found == [(classes[target], method, utility) for target, method, utility in CELLS]


def test_every_cell_has_the_figures_that_explain_answers(
    comparison: dict[str, Any], alone: list[dict[str, Any]]
) -> None:
    for together, single in zip(comparison["explanations"], alone, strict=True):
        scale = np.abs(values(single)).max()
        np.testing.assert_allclose(values(together) / scale, values(single) / scale, atol=1e-4)
        assert together["utility_value"] == pytest.approx(single["utility_value"], rel=1e-4)
        assert together["forward_passes"] == single["forward_passes"] == 3
        assert together["metrics"] == pytest.approx(single["metrics"], abs=0.1)
        if together["method"] == "gradcam":
            assert together["efficiency"] is single["efficiency"] is None
        else:
            assert together["efficiency"] == pytest.approx(single["efficiency"], rel=1e-3)


def test_the_sheet_shows_in_reading_order_the_overlays_that_explain_answers(
    bare: dict[str, Any], alone: list[dict[str, Any]]
) -> None:
    sheet = pixels(bare["sheet"])
    overlays = [pixels(explanation["overlay"]) for explanation in alone]
    assert max(overlays[0].shape) == 256
    found = places(sheet, overlays[0][0])
    assert len(found) == len(CELLS)
    columns = len(METHODS) * len(UTILITIES)
    assert len({top for top, _ in found}) == len(TARGETS)
    assert [left for _, left in found[:columns]] == [left for _, left in found[columns:]]
    for number, cell in enumerate(cells_of(sheet, overlays[0])):
        apart = [np.abs(cell.astype(int) - overlay).mean() for overlay in overlays]
        assert apart[number] < 0.05
        assert min(apart[:number] + apart[number + 1 :]) > 2, "these cells cannot be told apart"


def test_the_sheet_is_written_on_and_only_metrics_write_on_its_pictures(
    comparison: dict[str, Any], bare: dict[str, Any], alone: list[dict[str, Any]]
) -> None:
    overlay = pixels(alone[0]["overlay"])
    noted, plain = pixels(comparison["sheet"]), pixels(bare["sheet"])
    assert noted.shape == plain.shape
    assert all(explanation["metrics"] is None for explanation in bare["explanations"])
    for with_note, without in zip(cells_of(noted, overlay), cells_of(plain, overlay), strict=True):
        rows, columns = np.nonzero(np.abs(with_note.astype(int) - without).max(axis=2) > 20)
        assert len(rows) > 0
        assert rows.min() > 0.8 * overlay.shape[0]
        assert columns.min() > 0.4 * overlay.shape[1]
    # Above the pictures and to their left there are words.
    (top, left), *_ = places(plain, overlay[0])
    assert plain[:top, left:].min() < 128
    assert plain[top:, : left - 1].min() < 128


@pytest.mark.parametrize("max_side", [256, 64])
def test_each_cell_carries_the_pictures_that_explain_answers(
    client: httpx.Client, chelsea: bytes, max_side: int
) -> None:
    drawn: dict[str, Any] = {"max_side": max_side, "colormap": "viridis", "alpha": 0.7, "metrics": "false"}
    drawn |= {"include": ["overlay", "heatmap"]}
    together = compare(client, chelsea, **FIELDS, **drawn)
    assert together["sheet"] is None
    for cell, (target, method, utility) in zip(together["explanations"], CELLS, strict=True):
        single = ask_one(client, chelsea, layer="last_conv", target=target, method=method, utility=utility, **drawn)
        assert cell["attribution"] is None
        for name in ("overlay", "heatmap"):
            mine, theirs = pixels(cell[name]), pixels(single[name])
            assert mine.shape == theirs.shape
            # A batch of other length may round a level of a colour differently.
            assert np.abs(mine.astype(int) - theirs).max() <= 2


@pytest.mark.parametrize("accept", ["application/json", "image/png"])
@pytest.mark.parametrize("max_side", [256, 64])
def test_the_sheet_shows_the_overlays_of_the_cells_in_their_rows_and_columns(
    client: httpx.Client, chelsea: bytes, max_side: int, accept: str
) -> None:
    drawn: dict[str, Any] = {"max_side": max_side, "colormap": "viridis", "alpha": 0.7, "metrics": "false"}
    cells = compare(client, chelsea, include="overlay", **FIELDS, **drawn)["explanations"]
    overlays = [pixels(cell["overlay"]) for cell in cells]
    reply = client.post("/v1/compare", data=FIELDS | drawn, files={"image": chelsea}, headers={"accept": accept})
    file = reply.content if accept == "image/png" else base64.b64decode(reply.json()["sheet"]["b64"])
    sheet = np.asarray(Image.open(BytesIO(file), formats=["PNG"]))
    found = np.array(places(sheet, overlays[0][0])).reshape(len(TARGETS), len(METHODS) * len(UTILITIES), 2)
    assert (found[..., 0] == found[:, :1, 0]).all()
    assert (found[..., 1] == found[:1, :, 1]).all()
    for cell, overlay in zip(cells_of(sheet, overlays[0]), overlays, strict=True):
        assert np.abs(cell.astype(int) - overlay).max() <= 2


@pytest.mark.parametrize("include", [["sheet"], ["overlay"], ["heatmap"], ["attribution"], ["overlay", "sheet"]])
def test_include_says_what_is_sent(client: httpx.Client, chelsea: bytes, include: list[str]) -> None:
    reply = compare(client, chelsea, include=include, metrics="false", target=["predicted", "lynx"])
    assert (reply["sheet"] is not None) == ("sheet" in include)
    for explanation in reply["explanations"]:
        sent = {name for name in ("overlay", "heatmap", "attribution") if explanation[name] is not None}
        assert sent == set(include) - {"sheet"}


@pytest.mark.parametrize("include", [["sheet", "attribution"], ["overlay", "heatmap"]])
def test_accept_png_answers_the_sheet_itself_whatever_include_says(
    client: httpx.Client, chelsea: bytes, bare: dict[str, Any], include: list[str]
) -> None:
    fields = {**FIELDS, "metrics": "false", "include": include}
    response = client.post("/v1/compare", data=fields, files={"image": chelsea}, headers={"accept": "image/png"})
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert not {"x-explanation", "x-sheet"} & set(response.headers)
    sheet = np.asarray(Image.open(BytesIO(response.content), formats=["PNG"])).astype(int)
    expected = pixels(bare["sheet"])
    assert sheet.shape == expected.shape
    assert np.abs(sheet - expected).mean() < 0.01


def test_the_ways_to_ask_are_answered_alike(client: httpx.Client, chelsea: bytes, bare: dict[str, Any]) -> None:
    image = {"b64": base64.b64encode(chelsea).decode()}
    commas = {"layer": "last_conv", "method": ",".join(METHODS), "utility": " , ".join(UTILITIES), "target": TARGETS}
    responses = [
        client.post("/v1/compare", content=chelsea, params={**FIELDS, "metrics": "false"}, headers=JPEG),
        client.post("/v1/compare", content=chelsea, params={**commas, "metrics": "false"}, headers=JPEG),
        client.post("/v1/compare", json={"image": image, **FIELDS, "metrics": False}),
        client.post("/v1/compare", json={"image": image, **commas}, params={"metrics": "false"}),
        client.post("/v1/compare", files={"image": chelsea}, params={**commas, "metrics": "false"}),
    ]
    for response in responses:
        assert response.status_code == 200, response.text
        reply = response.json()
        assert (reply["method"], reply["utility"]) == (METHODS, UTILITIES)
        assert (reply["sheet"]["width"], reply["sheet"]["height"]) == (bare["sheet"]["width"], bare["sheet"]["height"])
        for mine, theirs in zip(reply["explanations"], bare["explanations"], strict=True):
            assert mine["target"]["index"] == theirs["target"]["index"]
            np.testing.assert_allclose(values(mine), values(theirs), rtol=1e-3, atol=1e-3)


def test_in_json_plain_strings_are_lists_of_one(client: httpx.Client, chelsea: bytes) -> None:
    body = {
        "image": {"b64": base64.b64encode(chelsea).decode()},
        "method": "gradcam",
        "utility": "log-softmax",
        "target": 285,
    }
    reply = client.post("/v1/compare", json=body).json()
    assert (reply["method"], reply["utility"]) == (["gradcam"], ["log-softmax"])
    (explanation,) = reply["explanations"]
    assert (explanation["method"], explanation["utility"]) == ("gradcam", "log-softmax")
    assert explanation["target"]["index"] == 285


def test_by_default_there_is_one_cell_of_the_default_method(client: httpx.Client, chelsea: bytes) -> None:
    reply = compare(client, chelsea, metrics="false")
    assert (reply["layer"], reply["method"], reply["utility"]) == ("pre_gap", ["shapleycam"], ["rest"])
    assert len(reply["explanations"]) == 1


@pytest.mark.parametrize(("max_side", "size"), [(0, (300, 451)), (1024, (300, 451)), (64, (43, 64))])
def test_max_side_bounds_each_picture_and_never_enlarges_it(
    client: httpx.Client, chelsea: bytes, max_side: int, size: tuple[int, int]
) -> None:
    fields = {"max_side": max_side, "metrics": "false"}
    overlay = pixels(ask_one(client, chelsea, include="overlay", **fields)["overlay"])
    assert overlay.shape[:2] == size
    (cell,) = cells_of(pixels(compare(client, chelsea, **fields)["sheet"]), overlay)
    assert np.abs(cell.astype(int) - overlay).mean() < 0.05


def test_sixty_four_cells_fit(client: httpx.Client, chelsea: bytes) -> None:
    targets = [str(index) for index in range(0, 160, 10)]
    reply = compare(
        client, chelsea, target=targets, method="hirescam,gradcam", utility="rest,log-softmax", metrics="false"
    )
    assert [e["target"]["index"] for e in reply["explanations"][::4]] == list(range(0, 160, 10))
    assert len(reply["explanations"]) == 64
    assert pixels(reply["sheet"]).shape[0] > 16 * 170


def test_layers_smoothing_and_the_reference_do_what_they_do_in_explain(client: httpx.Client, chelsea: bytes) -> None:
    fields = {"target": "282", "metrics": "false"}
    layered = compare(client, chelsea, layer="pre_gap,last_conv", smooth="flip", method="gradcam,hirescam", **fields)
    assert layered["layer"] == ["pre_gap", "last_conv"]
    for explanation in layered["explanations"]:
        assert explanation["forward_passes"] == 4
        assert [entry["shape"] for entry in explanation["attribution"]] == [[7, 7], [7, 7]]
    assert [entry is None for entry in layered["explanations"][0]["efficiency"]] == [False, True]
    held = {"layer": "last_conv", "reference": "shapley-sampling", **fields}
    together = compare(client, chelsea, method="gradcam,aumann-shapley", **held)["explanations"]
    for explanation in together:
        single = ask_one(client, chelsea, method=explanation["method"], include="attribution", **held)
        assert explanation["fidelity"] == pytest.approx(single["fidelity"], abs=1e-3)
    assert together[1]["fidelity"]["relative_l2"] < together[0]["fidelity"]["relative_l2"]


def test_the_time_to_draw_the_sheet_is_counted_as_rendering(client: httpx.Client) -> None:
    image = encoded(photograph("coffee").resize((3000, 2000)), "JPEG")
    fields = {"method": "gradcam,hirescam,layercam", "max_side": 1500, "metrics": "false"}
    times = compare(client, image, **fields)["timing_ms"]
    parts = sum(time for name, time in times.items() if name != "total")
    assert 0.5 * times["total"] < parts <= times["total"] + 0.01

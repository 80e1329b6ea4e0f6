"""Several layers in one request, and averages over views of a picture."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import ImageOps

from testing.pictures import encoded, photograph
from testing.serving import LABELS
from tests.api.asking import JPEG, JSON, ask, ask_one, json_body, pixels, values

LAYERS = ["last_conv", "pre_gap", "blocks.4"]
FIELDS = {"target": "282", "metrics": "false"}
SMALL_GRIDS = [
    f"layer4.{block}.{module}" for block in (0, 1) for module in ("conv1", "bn1", "conv2", "bn2")
]  # 7 x 7 each


@pytest.fixture(scope="module")
def layered(client: httpx.Client, chelsea: bytes) -> dict[str, Any]:
    return ask(client, chelsea, layer=LAYERS, method="hirescam", **FIELDS)


@pytest.fixture(scope="module")
def single(client: httpx.Client, chelsea: bytes) -> list[dict[str, Any]]:
    return [ask_one(client, chelsea, layer=layer, method="hirescam", **FIELDS) for layer in LAYERS]


def test_several_layers_are_answered_in_the_order_asked_each_as_alone(
    layered: dict[str, Any], single: list[dict[str, Any]]
) -> None:
    assert layered["layer"] == LAYERS
    assert layered["layer_path"] == ["conv_head", "bn2", "blocks.4"]
    (explanation,) = layered["explanations"]
    assert [entry["shape"] for entry in explanation["attribution"]] == [[7, 7], [7, 7], [14, 14]]
    for number, alone in enumerate(single):
        found = values({"attribution": explanation["attribution"][number]})
        np.testing.assert_allclose(found, values(alone), rtol=1e-3, atol=1e-4)
        assert explanation["efficiency"][number] == pytest.approx(alone["efficiency"], rel=1e-4)
    assert explanation["forward_passes"] == 3


def test_the_heatmap_of_several_layers_is_the_normalised_mean_of_theirs(
    layered: dict[str, Any], single: list[dict[str, Any]]
) -> None:
    mean = np.mean([pixels(explanation["heatmap"]) / 255 for explanation in single], axis=0)
    expected = 255 * (mean - mean.min()) / (mean.max() - mean.min())
    found = pixels(layered["explanations"][0]["heatmap"])
    assert found.max() == 255
    # Those that were sent have 256 levels, those that were averaged more.
    assert np.abs(found - expected).max() < 2


def test_efficiency_is_null_at_the_layers_where_the_attribution_has_no_units(
    client: httpx.Client, chelsea: bytes
) -> None:
    explanation = ask_one(client, chelsea, layer=LAYERS, method="gradcam", include="attribution", **FIELDS)
    assert [entry is None for entry in explanation["efficiency"]] == [True, False, True]


def test_layers_take_commas_and_lists_and_one_alone_makes_no_list(client: httpx.Client, chelsea: bytes) -> None:
    with_commas = client.post(
        "/v1/explain", content=chelsea, params={"layer": "last_conv, pre_gap", **FIELDS}, headers=JPEG
    ).json()
    body = json_body(chelsea, layer=["last_conv", "pre_gap"], target=282, metrics=False)
    listed = client.post("/v1/explain", content=body, headers=JSON).json()
    assert with_commas["layer"] == listed["layer"] == ["last_conv", "pre_gap"]
    body = json_body(chelsea, layer=["last_conv"], target=282, metrics=False)
    alone = client.post("/v1/explain", content=body, headers=JSON).json()
    assert (alone["layer"], alone["layer_path"]) == ("last_conv", "conv_head")
    assert alone["explanations"][0]["attribution"]["shape"] == [7, 7]


def test_metrics_of_several_layers_take_every_layer_once_more(client: httpx.Client, chelsea: bytes) -> None:
    explanation = ask_one(client, chelsea, layer=["pre_gap", "last_conv"], target="282", include="attribution")
    assert explanation["forward_passes"] == 5
    assert all(0 <= value <= 100 for value in explanation["metrics"].values())


def header(client: httpx.Client, image: bytes, **query: Any) -> dict[str, Any]:
    response = client.post("/v1/explain", content=image, params=query, headers={**JPEG, "accept": "image/png"})
    assert response.status_code == 200, response.text
    text = response.headers["x-explanation"]
    assert text.isascii()
    assert len(text) <= 4096
    figures = json.loads(text)
    assert text == json.dumps(figures, separators=(",", ":"))
    assert isinstance(figures, dict)
    return figures


def test_the_header_lists_the_layers_with_their_standard_errors(client: httpx.Client, chelsea: bytes) -> None:
    fields = {"layer": ["pre_gap", "last_conv"], "method": "shapley-sampling", **FIELDS}
    figures = header(client, chelsea, **fields)
    reply = ask(client, chelsea, **fields)
    assert figures["layer"] == reply["layer"] == ["pre_gap", "last_conv"]
    assert [entry["index"] for entry in figures["predictions"]] == [entry["index"] for entry in reply["predictions"]]
    (mine,), (theirs,) = figures["explanations"], reply["explanations"]
    for short, full in zip(mine["attribution"], theirs["attribution"], strict=True):
        assert list(short) == ["shape", "standard_error"]
        np.testing.assert_allclose(short["standard_error"], full["standard_error"], rtol=0.01)
    assert mine["efficiency"] == [pytest.approx(entry, rel=1e-4) for entry in theirs["efficiency"]]


def test_the_header_of_eight_sampled_layers_stays_within_4_kib(client: httpx.Client, chelsea: bytes) -> None:
    label = LABELS.index("é" * 3000)
    fields = {"model": "small", "layer": SMALL_GRIDS, "method": "shapley-sampling", "permutations": 4}
    figures = header(client, chelsea, target=label, metrics="false", top_k=10, **fields)
    assert figures["layer"] == figures["layer_path"] == SMALL_GRIDS
    (explanation,) = figures["explanations"]
    assert explanation["attribution"] == [{"shape": [7, 7], "standard_error": None}] * 8
    assert explanation["target"]["index"] == label


def mirrored_files() -> tuple[bytes, bytes]:
    picture = photograph("chelsea")
    return encoded(picture, "PNG"), encoded(ImageOps.mirror(picture), "PNG")


def test_flip_is_the_mean_of_the_picture_and_its_mirror_image(client: httpx.Client) -> None:
    # The evaluation view is a centre crop: that of the mirrored file is the mirrored view.
    one, other = mirrored_files()
    fields = {"method": "hirescam", "layer": "last_conv", "include": "attribution", **FIELDS}
    expected = (values(ask_one(client, one, **fields)) + values(ask_one(client, other, **fields))[:, ::-1]) / 2
    found = values(ask_one(client, one, smooth="flip", **fields))
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("smooth", ["flip", "flip-scale"])
def test_smoothed_explanations_of_mirror_images_are_mirror_images(client: httpx.Client, smooth: str) -> None:
    one, other = mirrored_files()
    fields = {"layer": "last_conv", "smooth": smooth, **FIELDS}
    first, second = ask_one(client, one, **fields), ask_one(client, other, **fields)
    scale = np.abs(values(first)).max()
    assert np.abs(values(first) - values(second)[:, ::-1]).max() < 0.02 * scale
    assert np.abs(pixels(first["heatmap"]).astype(int) - pixels(second["heatmap"])[:, ::-1]).max() < 12
    # Without smoothing they are not.
    fields["smooth"] = "none"
    first, second = ask_one(client, one, **fields), ask_one(client, other, **fields)
    assert np.abs(values(first) - values(second)[:, ::-1]).max() > 0.05 * scale


@pytest.mark.parametrize(("smooth", "bare", "measured"), [("none", 1, 3), ("flip", 2, 5), ("flip-scale", 6, 13)])
def test_every_view_takes_a_pass(client: httpx.Client, chelsea: bytes, smooth: str, bare: int, measured: int) -> None:
    fields = {"smooth": smooth, "include": "attribution"}
    explanation = ask_one(client, chelsea, metrics="false", **fields)
    assert explanation["forward_passes"] == bare
    assert ask_one(client, chelsea, **fields)["forward_passes"] == measured


def test_smoothing_changes_the_map_and_neither_the_scores_nor_the_class(client: httpx.Client, chelsea: bytes) -> None:
    fields = {"target": "predicted", "metrics": "false", "include": "attribution"}
    plain, smoothed = (ask(client, chelsea, smooth=smooth, **fields) for smooth in ("none", "flip-scale"))
    (one,), (other,) = plain["explanations"], smoothed["explanations"]
    assert one["target"]["index"] == other["target"]["index"]
    assert one["target"]["probability"] == pytest.approx(other["target"]["probability"], rel=1e-3)
    assert one["utility_value"] == pytest.approx(other["utility_value"], rel=1e-4)
    assert np.abs(values(one) - values(other)).max() > 0.01 * np.abs(values(one)).max()
    assert other["efficiency"]["attributed"] == pytest.approx(values(other).sum(), rel=1e-5)

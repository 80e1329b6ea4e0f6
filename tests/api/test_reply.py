"""The reply of /v1/explain, to the letter of docs/api.md."""

from typing import Any

import httpx
import matplotlib
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from app.cam.methods import METHODS
from app.cam.utilities import UTILITIES
from testing.pictures import encoded, photograph, rgb
from tests.api.asking import ask, ask_one, pixels, values

CATS = {"tabby", "tiger cat", "Egyptian cat"}
HEAD = ["model", "layer", "layer_path", "method", "utility", "device", "weights", "image", "view", "predictions"]
EXPLANATION = [
    "target",
    "method",
    "utility",
    "utility_value",
    "hvp_norm",
    "forward_passes",
    "attribution",
    "efficiency",
    "fidelity",
    "heatmap",
    "overlay",
    "metrics",
    "warnings",
]
METRICS = ["average_drop", "coherency", "complexity", "adcc", "increase_in_confidence", "average_drop_in_deletion"]
PREDICTION = ["index", "label", "probability", "logit"]
PNG = ["media_type", "width", "height", "b64"]
TIMES = ["decode", "queue", "compute", "render", "total"]


@pytest.fixture(scope="module")
def reply(client: httpx.Client, chelsea: bytes) -> dict[str, Any]:
    return ask(client, chelsea)


def test_the_reply_has_the_keys_of_the_contract_and_no_others(reply: dict[str, Any]) -> None:
    assert list(reply) == [*HEAD, "explanations", "timing_ms"]
    assert list(reply["image"]) == ["width", "height", "format"]
    assert list(reply["view"]) == ["fit", "box", "input_size"]
    assert [list(prediction) for prediction in reply["predictions"]] == [PREDICTION] * 5
    assert list(reply["timing_ms"]) == TIMES
    (explanation,) = reply["explanations"]
    assert list(explanation) == EXPLANATION
    assert list(explanation["target"]) == PREDICTION
    assert list(explanation["attribution"]) == ["shape", "values", "standard_error"]
    assert list(explanation["efficiency"]) == ["attributed", "available"]
    assert list(explanation["heatmap"]) == list(explanation["overlay"]) == PNG
    assert list(explanation["metrics"]) == METRICS
    assert explanation["fidelity"] is None
    assert explanation["attribution"]["standard_error"] is None


def test_the_head_says_what_was_done_with_what(reply: dict[str, Any]) -> None:
    assert reply["model"] == "tf_efficientnet_lite0"
    assert (reply["layer"], reply["layer_path"]) == ("pre_gap", "bn2")
    assert (reply["method"], reply["utility"]) == ("shapleycam", "rest")
    assert (reply["device"], reply["weights"]) == ("cpu", "embedded")
    assert reply["image"] == {"width": 451, "height": 300, "format": "PNG"}
    assert reply["explanations"][0]["forward_passes"] == 3
    assert reply["explanations"][0]["warnings"] == []


def test_chelsea_is_a_cat(reply: dict[str, Any]) -> None:
    assert {prediction["label"] for prediction in reply["predictions"][:3]} == CATS
    assert reply["explanations"][0]["target"] == reply["predictions"][0]


def test_times_are_milliseconds_that_add_up(reply: dict[str, Any]) -> None:
    times = reply["timing_ms"]
    assert all(time >= 0 for time in times.values())
    assert sum(times.values()) - times["total"] <= times["total"] + 0.01


def test_probabilities_are_the_softmax_of_the_logits(client: httpx.Client, chelsea: bytes) -> None:
    predictions = ask(client, chelsea, top_k=1000, include="attribution", metrics="false")["predictions"]
    assert sorted(prediction["index"] for prediction in predictions) == list(range(1000))
    logits = np.array([prediction["logit"] for prediction in predictions])
    probabilities = np.array([prediction["probability"] for prediction in predictions])
    assert (np.diff(logits) <= 0).all()
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), rtol=1e-6)


def test_utility_values_are_the_utilities_of_the_target(client: httpx.Client, chelsea: bytes) -> None:
    for utility in UTILITIES:
        explanation = ask_one(client, chelsea, utility=utility, target="285", metrics="false", include="attribution")
        logit, probability = explanation["target"]["logit"], explanation["target"]["probability"]
        expected = {
            "pre-softmax": logit,
            "post-softmax": probability,
            "log-softmax": np.log(probability),
            "rest": logit + np.log(probability),
        }[utility]
        assert explanation["utility_value"] == pytest.approx(expected, rel=1e-5), utility
        assert explanation["utility"] == utility


def test_the_attributed_utility_is_the_sum_of_the_attribution(reply: dict[str, Any]) -> None:
    (explanation,) = reply["explanations"]
    assert explanation["efficiency"]["attributed"] == pytest.approx(values(explanation).sum(), rel=1e-6)
    assert explanation["efficiency"]["available"] > 0


def test_adcc_is_the_harmonic_mean_of_its_three(reply: dict[str, Any]) -> None:
    metrics = reply["explanations"][0]["metrics"]
    parts = [metrics["coherency"], 100 - metrics["complexity"], 100 - metrics["average_drop"]]
    assert metrics["adcc"] == pytest.approx(3 / sum(1 / part for part in parts))
    assert all(0 <= value <= 100 for value in metrics.values())


def test_the_heatmap_is_the_positive_attribution_enlarged(reply: dict[str, Any]) -> None:
    (explanation,) = reply["explanations"]
    heat = pixels(explanation["heatmap"])
    assert heat.shape == (224, 224)
    assert heat.dtype == np.uint8
    assert heat.max() == 255
    positive = torch.from_numpy(values(explanation)).clamp(min=0)
    scaled = (positive - positive.min()) / (1e-7 + positive.max() - positive.min())
    large = interpolate(scaled[None, None], (224, 224), mode="bilinear", align_corners=False)[0, 0]
    large = (large - large.min()) / (1e-7 + large.max() - large.min())
    assert np.abs(heat - 255 * large.numpy()).max() <= 0.51


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize(("colormap", "alpha"), [("jet", 0.5), ("viridis", 0.25), ("gray", 1.0)])
def test_the_overlay_is_the_picture_with_the_coloured_heatmap_inside_the_box(
    client: httpx.Client, chelsea: bytes, fit: str, colormap: str, alpha: float
) -> None:
    reply = ask(client, chelsea, fit=fit, colormap=colormap, alpha=alpha, max_side=0, metrics="false")
    picture = rgb(photograph("chelsea")).astype(np.float64)
    drawn = pixels(reply["explanations"][0]["overlay"]).astype(np.float64)
    assert drawn.shape == picture.shape
    heat = pixels(reply["explanations"][0]["heatmap"]) / 255
    left, top, right, bottom = reply["view"]["box"]
    x = np.arange(451) + 0.5
    y = np.arange(300) + 0.5
    columns = (x - left) / (right - left) * 224 - 0.5
    rows = (y - top) / (bottom - top) * 224 - 0.5
    colour = 255 * matplotlib.colormaps[colormap](_sampled(heat, rows, columns))[..., :3]
    inside = ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))[None, :]
    np.testing.assert_array_equal(drawn[~inside], picture[~inside])
    difference = np.abs(drawn - ((1 - alpha) * picture + alpha * colour))[inside]
    # The heatmap that was sent has 256 levels, the one that was painted has more.
    assert difference.mean() < 1
    assert difference.max() < 10


def _sampled(heat: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], columns: np.ndarray[Any, Any]) -> Any:
    """Samples bilinearly, edges clamped."""
    by_row = np.stack([np.interp(rows, np.arange(224), column) for column in heat.T], axis=1)
    return np.stack([np.interp(columns, np.arange(224), row) for row in by_row])


def test_no_alpha_leaves_the_picture_as_it_is(client: httpx.Client, chelsea: bytes) -> None:
    drawn = pixels(ask_one(client, chelsea, alpha=0, metrics="false")["overlay"])
    np.testing.assert_array_equal(drawn, rgb(photograph("chelsea")))


def test_each_fit_says_where_the_network_looked(client: httpx.Client, chelsea: bytes) -> None:
    views = {fit: ask(client, chelsea, "/v1/predict", fit=fit)["view"] for fit in ("crop", "stretch", "pad")}
    assert all(view["input_size"] == [224, 224] for view in views.values())
    # The short side is resized to 256 px, the long one to 384, and 224 x 224 are cut out 80 px from the left.
    assert views["crop"]["box"] == pytest.approx([80 * 451 / 384, 18.75, 304 * 451 / 384, 281.25])
    assert views["stretch"]["box"] == [0, 0, 451, 300]
    left, top, right, bottom = views["pad"]["box"]
    assert (left, right) == (0, 451)
    assert top < 0
    assert bottom > 300
    assert bottom - top == pytest.approx(451, rel=0.01)


@pytest.mark.parametrize(
    ("max_side", "size"), [(0, (800, 1200)), (1024, (683, 1024)), (16, (11, 16)), (8192, (800, 1200))]
)
def test_max_side_bounds_the_overlay_and_never_enlarges_it(
    client: httpx.Client, max_side: int, size: tuple[int, int]
) -> None:
    image = encoded(photograph("coffee").resize((1200, 800)), "JPEG")
    overlay = ask_one(client, image, max_side=max_side, metrics="false", include="overlay")["overlay"]
    assert pixels(overlay).shape == (*size, 3)


def test_only_what_include_names_is_sent(client: httpx.Client, chelsea: bytes) -> None:
    for include in ("heatmap", "overlay", "attribution"):
        explanation = ask_one(client, chelsea, include=include, metrics="false")
        assert list(explanation) == EXPLANATION
        present = [name for name in ("heatmap", "overlay", "attribution") if explanation[name] is not None]
        assert present == [include]
        assert explanation["metrics"] is None
        assert explanation["forward_passes"] == 1
        assert explanation["efficiency"] is not None


def test_include_takes_a_list_and_commas(client: httpx.Client, chelsea: bytes) -> None:
    for include in (["heatmap", "explanation_map"], "heatmap,explanation_map", "heatmap, explanation_map"):
        explanation = ask_one(client, chelsea, include=include, metrics="false")
        assert explanation["heatmap"] is not None
        assert explanation["explanation_map"] is not None
        assert explanation["overlay"] is None
        assert "anti_explanation_map" not in explanation


def test_explanation_map_and_anti_explanation_map_make_up_what_the_network_saw(
    client: httpx.Client, chelsea: bytes
) -> None:
    explanation = ask_one(client, chelsea, include="heatmap,explanation_map,anti_explanation_map", metrics="false")
    heat = pixels(explanation["heatmap"])[..., None] / 255
    kept = pixels(explanation["explanation_map"]).astype(np.float64)
    removed = pixels(explanation["anti_explanation_map"]).astype(np.float64)
    seen = rgb(photograph("chelsea").resize((384, 256), 3).crop((80, 16, 304, 240))).astype(np.float64)
    mean = 127.5
    assert np.abs(kept - (mean + heat * (seen - mean))).max() < 1.5
    assert np.abs(removed - (mean + (1 - heat) * (seen - mean))).max() < 1.5


def test_several_targets_are_explained_in_order_and_as_they_are_alone(client: httpx.Client, chelsea: bytes) -> None:
    targets = ["least-likely", "predicted", "287", "Egyptian cat", "tiger cat"]
    reply = ask(client, chelsea, target=targets, top_k=1000, include="attribution")
    indices = [explanation["target"]["index"] for explanation in reply["explanations"]]
    best = reply["predictions"][0]["index"]
    assert indices == [reply["predictions"][-1]["index"], best, 287, 285, 282]
    for target, together in zip(targets, reply["explanations"], strict=True):
        alone = ask_one(client, chelsea, target=target, include="attribution")
        scale = np.abs(values(alone)).max()
        np.testing.assert_allclose(values(together) / scale, values(alone) / scale, atol=1e-4)
        assert together["utility_value"] == pytest.approx(alone["utility_value"], rel=1e-4)
        assert together["metrics"] == pytest.approx(alone["metrics"], abs=0.1)


def test_a_label_may_hold_commas_and_any_script(client: httpx.Client, chelsea: bytes) -> None:
    fields = {"model": "small", "metrics": "false", "include": "attribution"}
    targets = ["maillot, tank suit", "Ωμέγα ✓", "Cardigan", "cardigan", "ANT"]
    explanations = ask(client, chelsea, target=targets, **fields)["explanations"]
    assert [explanation["target"]["index"] for explanation in explanations] == [4, 5, 2, 3, 7]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_every_utility_that_it_allows(client: httpx.Client, chelsea: bytes, method: str) -> None:
    # A pass for each channel: that network has few.
    model = "vit" if method == "scorecam" else "tf_efficientnet_lite0"
    fields = {"model": model, "method": method, "metrics": "false", "include": "attribution"}
    for utility in ["pre-softmax"] if method == "cam" else UTILITIES:
        explanation = ask_one(client, chelsea, utility=utility, **fields)
        assert (explanation["method"], explanation["utility"]) == (method, utility)
        assert np.isfinite(values(explanation)).all()
        assert np.abs(values(explanation)).max() > 0
        assert (explanation["hvp_norm"] is not None) == method.startswith("shapleycam")


def test_any_module_with_a_grid_is_a_layer(client: httpx.Client, chelsea: bytes) -> None:
    fields = {"metrics": "false", "include": "attribution"}
    for model, layer, path, side in [
        ("tf_efficientnet_lite0", "last_conv", "conv_head", 7),
        ("tf_efficientnet_lite0", "blocks.4", "blocks.4", 14),
        ("small", "pre_gap", "layer4", 7),
        ("small", "layer3", "layer3", 14),
    ]:
        reply = ask(client, chelsea, model=model, layer=layer, **fields)
        assert (reply["model"], reply["layer"], reply["layer_path"]) == (model, layer, path)
        assert reply["explanations"][0]["attribution"]["shape"] == [side, side]


def test_the_default_layer_is_the_first_named_one_where_there_is_no_pre_gap(
    client: httpx.Client, chelsea: bytes
) -> None:
    (first, *_) = client.get("/v1/models/vit").json()["layers"].items()
    reply = ask(client, chelsea, model="vit", metrics="false", include="attribution")
    assert (reply["layer"], reply["layer_path"]) == first == ("last_norm", "blocks.5.norm1")


def test_the_sum_is_not_called_efficient_where_it_is_in_no_units(client: httpx.Client, chelsea: bytes) -> None:
    fields = {"metrics": "false", "include": "attribution"}
    assert ask_one(client, chelsea, method="gradcam", layer="last_conv", **fields)["efficiency"] is None
    assert ask_one(client, chelsea, method="hirescam", layer="last_conv", **fields)["efficiency"] is not None


def test_a_flat_hessian_is_an_exact_zero_and_said(client: httpx.Client, chelsea: bytes) -> None:
    explanation = ask_one(client, chelsea, utility="pre-softmax", metrics="false")
    assert explanation["hvp_norm"] == 0
    assert any("Hessian" in warning for warning in explanation["warnings"])


def test_a_module_that_runs_more_than_once_is_said_to(client: httpx.Client, chelsea: bytes) -> None:
    explanation = ask_one(client, chelsea, model="small", layer="layer4.1.relu", metrics="false")
    assert any("runs 2 times" in warning for warning in explanation["warnings"])


def test_a_map_without_positive_evidence_is_dark_and_said(client: httpx.Client, chelsea: bytes) -> None:
    reply = ask(client, chelsea, method="cam", utility="pre-softmax", target="least-likely", metrics="false")
    (explanation,) = reply["explanations"]
    assert values(explanation).max() <= 0
    assert pixels(explanation["heatmap"]).max() == 0
    assert any("no position speaks" in warning for warning in explanation["warnings"])


def test_the_seed_decides_the_random_baseline(client: httpx.Client, chelsea: bytes) -> None:
    first, again, other = (
        values(ask_one(client, chelsea, method="randomcam", seed=seed, metrics="false")) for seed in (0, 0, 2**63 - 1)
    )
    np.testing.assert_allclose(first, again, rtol=1e-3, atol=1e-3)
    assert not np.allclose(first, other, rtol=1e-2)


def test_the_weights_of_a_random_network_are_called_random(client: httpx.Client, chelsea: bytes) -> None:
    assert ask(client, chelsea, "/v1/predict", model="small")["weights"] == "random"


def test_predict_replies_the_head_alone(client: httpx.Client, chelsea: bytes, reply: dict[str, Any]) -> None:
    prediction = ask(client, chelsea, "/v1/predict", top_k=2)
    kept = ["model", "device", "weights", "image", "view", "predictions", "timing_ms"]
    assert list(prediction) == kept
    assert list(prediction["timing_ms"]) == TIMES
    for name in ("model", "device", "weights", "image", "view"):
        assert prediction[name] == reply[name]
    for mine, theirs in zip(prediction["predictions"], reply["predictions"][:2], strict=True):
        assert mine["label"] == theirs["label"]
        assert mine["logit"] == pytest.approx(theirs["logit"], rel=1e-4)

"""The KServe V1 protocol answers what /v1/explain and /v1/predict answer, for several pictures at once."""

from typing import Any

import httpx
import numpy as np
import pytest

from testing.pictures import encoded, photograph
from tests.api.asking import ask, pixels, values
from tests.api.calls import NETWORK, b64, call, instance, post

PICTURES = [
    encoded(photograph("chelsea"), "PNG"),
    encoded(photograph("rocket"), "JPEG", quality=90),
    encoded(photograph("coffee"), "WEBP"),
]
SHAPES = [instance(PICTURES[0]), {"b64": b64(PICTURES[1])}, {"data": b64(PICTURES[2])}]


def assert_same(found: Any, expected: Any, path: str = "") -> None:
    """Two replies say the same, up to rounding and the time that they took."""
    if isinstance(expected, dict) and "media_type" in expected:
        assert np.abs(pixels(found).astype(int) - pixels(expected)).max() <= 2, path
    elif isinstance(expected, dict):
        assert list(found) == list(expected), path
        for name, value in expected.items():
            if name != "timing_ms":
                assert_same(found[name], value, f"{path}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for number, value in enumerate(expected):
            assert_same(found[number], value, f"{path}[{number}]")
    elif isinstance(expected, float):
        # Metrics are percent, and follow the heatmap's rounding.
        assert found == pytest.approx(expected, rel=2e-3, abs=0.05 if ".metrics" in path else 1e-3), path
    else:
        assert found == expected, path


@pytest.mark.parametrize(
    ("network", "fields"),
    [
        (NETWORK, {}),
        (NETWORK, {"target": [282, "lynx", "least-likely"], "include": ["overlay", "explanation_map"], "alpha": 0.3}),
        (NETWORK, {"layer": ["pre_gap", "last_conv"], "method": "hirescam", "smooth": "flip", "metrics": False}),
        ("small", {"target": ["Cardigan"], "fit": "pad", "max_side": 64, "colormap": "viridis", "top_k": 10}),
    ],
    ids=["defaults", "targets", "layers", "another network"],
)
def test_explanations_are_those_of_v1_explain_in_order(
    client: httpx.Client, network: str, fields: dict[str, Any]
) -> None:
    replies = call(client, "explain", SHAPES, network, **fields)
    for reply, picture in zip(replies, PICTURES, strict=True):
        # In a form, lists are the field repeated.
        assert_same(reply, ask(client, picture, model=network, **fields))


def test_predictions_are_those_of_v1_predict_in_order(client: httpx.Client) -> None:
    replies = call(client, "predict", SHAPES, fit="stretch", top_k=7)
    for reply, picture in zip(replies, PICTURES, strict=True):
        assert_same(reply, ask(client, picture, "/v1/predict", fit="stretch", top_k=7))


def test_parameters_may_be_left_out_or_null(client: httpx.Client) -> None:
    for parameters in ({}, {"parameters": None}, {"parameters": {}}):
        body = {"instances": [instance(PICTURES[0])]} | parameters
        (reply,) = client.post(f"/v1/models/{NETWORK}:predict", json=body).json()["predictions"]
        assert len(reply["predictions"]) == 5


def test_as_many_instances_as_are_allowed_are_answered_in_order(client: httpx.Client) -> None:
    order = [number * 5 % 3 for number in range(64)]
    replies = call(client, "predict", [SHAPES[number] for number in order], top_k=1)
    classes = [reply["predictions"][0]["index"] for reply in call(client, "predict", SHAPES, top_k=1)]
    assert len(set(classes)) == 3
    assert [reply["predictions"][0]["index"] for reply in replies] == [classes[number] for number in order]
    assert [reply["image"]["format"] for reply in replies] == [("PNG", "JPEG", "WEBP")[number] for number in order]


def test_instances_share_batches(client: httpx.Client) -> None:
    def share() -> bool:
        replies = call(client, "explain", SHAPES * 4, metrics=False, max_side=64)
        # All of a batch are told its time on the device, which hardly ever two batches have in common.
        return len({reply["timing_ms"]["compute"] for reply in replies}) <= len(replies) - 2

    # On a busy machine pictures may be read so slowly that the device takes each as it comes.
    assert any(share() for _ in range(20))


def test_every_instance_has_times_of_its_own(client: httpx.Client) -> None:
    replies = call(client, "explain", SHAPES * 2, metrics=False)
    for reply in replies:
        timing = reply["timing_ms"]
        assert list(timing) == ["decode", "queue", "compute", "render", "total"]
        assert all(value >= 0 for value in timing.values())
        assert timing["total"] > timing["decode"] + timing["compute"] + timing["render"]
    assert len({reply["timing_ms"]["decode"] for reply in replies}) == len(replies)


def test_a_large_reply_is_complete(client: httpx.Client) -> None:
    response = post(client, "explain", SHAPES * 4, metrics=False)
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content) > 2**21
    replies = response.json()["explanations"]
    for number, reply in enumerate(replies):
        (explanation,) = reply["explanations"]
        (first,) = replies[number % 3]["explanations"]
        assert pixels(explanation["overlay"]).shape == pixels(first["overlay"]).shape
        np.testing.assert_allclose(values(explanation), values(first), rtol=1e-3, atol=1e-4)

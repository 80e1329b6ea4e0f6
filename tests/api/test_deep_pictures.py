"""Pictures of more than 8 bits on the wire, and a network of one channel with a fit of its own."""

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from testing.pictures import encoded, photograph
from testing.serving import serving
from tests.api.asking import ask, ask_one, pixels
from tests.api.calls import b64


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        serving(tmp_path_factory.mktemp("film"), models="film,small", trunk="eager") as running,
        httpx.Client(base_url=running.url, timeout=120) as client,
    ):
        yield client


def deep(highest: int) -> bytes:
    grey = np.asarray(photograph("chelsea").convert("L"), np.float64)
    return encoded(Image.fromarray(np.round(grey / grey.max() * highest).astype(np.uint16)), "PNG")


def test_a_network_of_one_channel_is_described_and_explained(film: httpx.Client) -> None:
    assert film.get("/v1/models/film").json()["channels"] == 1
    maps = ask_one(film, deep(4095), model="film", include=["overlay", "explanation_map", "anti_explanation_map"])
    assert maps["warnings"] == []
    assert pixels(maps["explanation_map"]).ndim == 2
    assert pixels(maps["overlay"]).ndim == 3
    assert all(np.isfinite(value) for value in maps["metrics"].values())


def test_the_fit_is_the_networks_unless_a_request_names_one(film: httpx.Client, chelsea: bytes) -> None:
    fits = [
        ask(film, chelsea, "/v1/predict", model=model, **fields)["view"]["fit"]
        for model, fields in (("film", {}), ("film", {"fit": "crop"}), ("small", {}), ("small", {"fit": "pad"}))
    ]
    assert fits == ["stretch", "crop", "crop", "pad"]


def test_twelve_bits_are_read_at_the_networks_scale_and_drawn_so(film: httpx.Client) -> None:
    reply = ask(film, deep(4095), "/v1/explain", model="film", alpha=0, max_side=0, include=["overlay"])
    drawn = pixels(reply["explanations"][0]["overlay"])[..., 0].astype(np.float64)
    grey = np.asarray(photograph("chelsea").convert("L"), np.float64)
    assert np.abs(drawn - grey / grey.max() * 255).max() <= 1


def test_what_uses_little_of_its_range_or_too_much_is_said(film: httpx.Client) -> None:
    (dark,) = ask_one(film, deep(4095), model="small")["warnings"]
    assert "uses little of its range: its highest value is 4,095 of 65,535" in dark
    (bright,) = ask_one(film, deep(9000), model="film")["warnings"]
    assert "above 4,095" in bright
    assert "the highest is 9,000" in bright
    assert ask_one(film, deep(60000), model="small")["warnings"] == []


def test_kserve_reads_twelve_bits_alike(film: httpx.Client) -> None:
    body = {"instances": [{"image": {"b64": b64(deep(4095))}}], "parameters": {"layer": "pre_gap"}}
    (reply,) = film.post("/v1/models/film:explain", json=body).raise_for_status().json()["explanations"]
    direct = ask(film, deep(4095), "/v1/explain", model="film", layer="pre_gap")
    found, expected = (np.array(each["explanations"][0]["attribution"]["values"]) for each in (reply, direct))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert reply["view"] == direct["view"]
    (dark,) = film.post("/v1/models/small:explain", json=body).json()["explanations"]
    assert "uses little of its range" in dark["explanations"][0]["warnings"][0]

"""One running service for all tests of this folder."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from testing.pictures import encoded, photograph
from testing.serving import Service, serving
from tests.api.asking import ask_one, values


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), models="tf_efficientnet_lite0,small,vit") as running:
        yield running


@pytest.fixture(scope="package")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one place."""
    with serving(tmp_path_factory.mktemp("narrow"), queue_size=1, timeout_s=3000, trunk="eager") as running:
        yield running


@pytest.fixture(scope="package")
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="package")
def document(client: httpx.Client) -> dict[str, Any]:
    loaded = client.get("/openapi.json").json()
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="package")
def chelsea() -> bytes:
    """A cat, 451 x 300 px, as a lossless file."""
    return encoded(photograph("chelsea"), "PNG")


@pytest.fixture(scope="module")
def good(client: httpx.Client) -> Callable[[], None]:
    """Posts a good request and compares its answer with the first one's."""
    image = encoded(photograph("chelsea"), "JPEG", quality=90)

    def explain() -> npt.NDArray[np.float64]:
        return values(ask_one(client, image, include="attribution", metrics="false"))

    first = explain()

    def check() -> None:
        np.testing.assert_allclose(explain(), first, rtol=1e-3, atol=1e-4)

    return check

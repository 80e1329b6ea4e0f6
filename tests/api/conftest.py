"""One running service for all tests of this folder."""

from collections.abc import Iterator

import httpx
import pytest

from tests.api.serving import Service, serving
from tests.imaging.pictures import encoded, photograph


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), models="tf_efficientnet_lite0,small,vit") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def chelsea() -> bytes:
    """A cat, 451 x 300 px, as a lossless file."""
    return encoded(photograph("chelsea"), "PNG")

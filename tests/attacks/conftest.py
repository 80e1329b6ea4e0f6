"""One running service for all attacks of this folder."""

from collections.abc import Iterator

import httpx
import pytest

from testing.serving import Service, serving


@pytest.fixture(scope="package")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("attacked"), timeout_s=30, max_body_mib=4) as running:
        yield running


@pytest.fixture(scope="package")
def attacker(attacked: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=attacked.url, timeout=60) as client:
        yield client

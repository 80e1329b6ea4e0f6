"""One service on Ray for all tests of this folder."""

from collections.abc import Iterator

import pytest

from testing.serving import Service, free_port, serving
from tests.api.conftest import chelsea, client, document, good

__all__ = ["chelsea", "client", "document", "good", "service"]


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder, models = tmp_path_factory.mktemp("cluster"), "tf_efficientnet_lite0,small,vit"
    with serving(folder, "--engine", "ray", models=models, port=free_port(), trunk="eager") as running:
        yield running

"""A hub on this machine for every test that asks for one."""

from collections.abc import Iterator

import pytest

from .mirror import Mirror, serve


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve() as running:
        yield running

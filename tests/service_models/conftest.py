"""A hub on this machine for every test that asks for one, and one thread for all of them."""

from collections.abc import Iterator

import pytest
import torch

from testing.mirror import Mirror, serve


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    # Threads that wait for each other on a busy machine make these many small passes four times slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve() as running:
        yield running

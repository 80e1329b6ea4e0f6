"""Comparisons that a caller asks for wrongly are answered as docs/api.md says, and harm no other request."""

from collections.abc import Callable

import httpx
import pytest

from testing.serving import Service
from tests.api.mistakes import COMPARISONS, Mistake, assert_named


@pytest.mark.parametrize("mistake", COMPARISONS, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_and_the_next_request_unharmed(
    client: httpx.Client, good: Callable[[], None], mistake: Mistake
) -> None:
    assert_named(mistake, client.post(mistake.path, **mistake.request))
    good()


def test_nothing_of_this_was_unforeseen(service: Service) -> None:
    """Runs last in this file: the service's log holds no traceback."""
    assert "Traceback" not in service.log.read_text()

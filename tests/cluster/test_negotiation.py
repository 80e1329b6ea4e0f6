"""The tests of tests/api/test_negotiation.py, of a service on Ray."""

from tests.api.test_negotiation import *  # noqa: F403 - pytest finds them here once more

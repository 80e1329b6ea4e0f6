"""The tests of tests/api/test_bad_input.py, of a service on Ray."""

from tests.api.test_bad_input import *  # noqa: F403 - pytest finds them here once more

"""The tests of tests/api/test_kserve.py, of a service on Ray."""

from tests.api.test_kserve import *  # noqa: F403 - pytest finds them here once more

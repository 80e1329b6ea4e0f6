"""The tests of tests/api/test_contract.py, of a service on Ray."""

from tests.api.test_contract import *  # noqa: F403 - pytest finds them here once more

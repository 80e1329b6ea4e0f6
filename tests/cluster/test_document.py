"""The tests of tests/api/test_document.py, of a service on Ray."""

from tests.api.test_document import *  # noqa: F403 - pytest finds them here once more

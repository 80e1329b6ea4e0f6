"""The tests of tests/api/test_reply.py, of a service on Ray."""

from tests.api.test_reply import *  # noqa: F403 - pytest finds them here once more

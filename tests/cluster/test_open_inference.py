"""The tests of tests/api/test_open_inference.py, of a service on Ray."""

from tests.api.test_open_inference import *  # noqa: F403 - pytest finds them here once more

# Nothing is said of the port before all networks are loaded.
del test_a_network_that_is_still_loading_is_503_and_the_service_alive  # noqa: F821

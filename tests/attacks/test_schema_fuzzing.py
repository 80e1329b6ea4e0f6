"""The service does what its OpenAPI document says: Schemathesis asks, and every check that it has is on.

`use_after_free` and `ensure_resource_availability` judge what is created and deleted: nothing is here.
`object_level_authorization` needs objects that belong to somebody: there are none. They are on all the same, so that
they judge from the day on that something of the kind appears. `python -m benchmarks.trust.fuzz` is the long run.
"""

from collections.abc import Iterator

import httpx
import pytest

from testing.attacks.schemas import Findings, enabled_checks, fuzz
from testing.serving import Service, serving
from testing.watching import broken_decoders, tracebacks

KEY = "of-the-one-who-attacks-0123456789"
HEADERS = {"Authorization": f"Bearer {KEY}"}
# Each limit of their fields takes a request, and there are hundreds: the long run tries them all.
LARGE = "^/v1/(explain|compare|models/.*:explain)$"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys"
    keys.write_text(f"attacker: {KEY}\n")
    keys.chmod(0o600)
    with serving(folder, timeout_s=30, api_keys_file=keys) as running:
        assert httpx.get(f"{running.url}/v1/models").status_code == 401
        assert httpx.get(f"{running.url}/v1/models", headers=HEADERS).status_code == 200
        yield running


def check(findings: Findings, service: Service) -> None:
    assert not findings.errors, findings.errors[0]
    assert not findings.failures, "\n\n".join(findings.failures.values())
    assert findings.over_limit == 0, findings.slowest_s
    assert set(findings.checks) >= enabled_checks()
    assert not any(status >= 500 and status != 501 for status in findings.statuses)
    assert tracebacks(service) == broken_decoders(service) == 0


def test_small_operations_hold_to_each_limit_of_the_document(guarded: Service) -> None:
    findings = fuzz(guarded.url, 5, seed=1, headers=HEADERS, avoid=LARGE)
    check(findings, guarded)
    assert findings.accepted["POST /v1/predict"] > 10


def test_large_operations_hold_to_the_document(guarded: Service) -> None:
    findings = fuzz(guarded.url, 20, seed=1, headers=HEADERS, only=LARGE, systematic=False)
    check(findings, guarded)
    for path in ("/v1/explain", "/v1/compare", "/v1/models/{name}:explain"):
        assert findings.accepted[f"POST {path}"] > 5, "many requests reach the network"

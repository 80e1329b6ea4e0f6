"""How many targets a request may have is the operator's choice; how many cells a sheet has is not."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from testing.serving import serving
from tests.api.asking import ask, ask_one, values

MOST_TARGETS, MOST_CELLS = 100, 64
FIELDS: dict[str, Any] = {"method": "gradcam", "metrics": "false", "max_side": "32"}


@pytest.fixture(scope="module")
def generous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that takes many targets."""
    folder = tmp_path_factory.mktemp("generous")
    with (
        serving(folder, models="tf_efficientnet_lite0", max_targets=MOST_TARGETS) as running,
        httpx.Client(base_url=running.url, timeout=120) as client,
    ):
        yield client


def indices(count: int) -> list[str]:
    """Distinct classes, in no order that anything else knows."""
    return [str(7 * number % 1000) for number in range(count)]


def test_an_explanation_has_more_targets_than_a_sheet_has_cells(generous: httpx.Client, chelsea: bytes) -> None:
    asked = indices(MOST_TARGETS)
    reply = ask(generous, chelsea, target=asked, include="attribution", **FIELDS)
    assert [str(explanation["target"]["index"]) for explanation in reply["explanations"]] == asked
    for number in (0, MOST_CELLS, MOST_TARGETS - 1):
        alone = ask_one(generous, chelsea, target=asked[number], include="attribution", **FIELDS)
        np.testing.assert_allclose(values(reply["explanations"][number]), values(alone), rtol=1e-3, atol=1e-4)


def test_one_target_more_than_the_operator_allows_is_refused(generous: httpx.Client, chelsea: bytes) -> None:
    fields = FIELDS | {"target": indices(MOST_TARGETS + 1)}
    error = refusal(generous.post("/v1/explain", files={"image": chelsea}, data=fields))
    assert error["detail"] == {"field": "target", "expected": f"at most {MOST_TARGETS} targets"}


@pytest.mark.parametrize(
    ("targets", "others"),
    [(65, {}), (33, {"method": ["gradcam", "hirescam"]}), (33, {"utility": ["rest", "pre-softmax"]})],
    ids=["targets", "methods", "utilities"],
)
def test_a_sheet_of_more_cells_than_64_is_refused_however_many_targets_are_allowed(
    generous: httpx.Client, chelsea: bytes, targets: int, others: dict[str, Any]
) -> None:
    full = FIELDS | others | {"target": indices(targets - 1)}
    too_full = full | {"target": indices(targets)}
    error = refusal(generous.post("/v1/compare", files={"image": chelsea}, data=too_full))
    assert error["detail"]["field"] == "method"
    assert f"at most {MOST_CELLS} cells" in error["detail"]["expected"]
    # With one row less it is a sheet.
    assert len(ask(generous, chelsea, "/v1/compare", **full)["explanations"]) == MOST_CELLS


def refusal(response: httpx.Response) -> dict[str, Any]:
    error = response.json()
    assert (response.status_code, error["code"]) == (422, "invalid_parameter"), error
    assert isinstance(error, dict)
    return error

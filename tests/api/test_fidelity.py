"""How near an attribution is to sampled Shapley values, held against formulas of its own."""

import json
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from tests.api.asking import JPEG, ask_one, values

NAMES = ["pearson", "spearman", "cosine", "relative_l2", "efficiency_gap"]
REFERENCE: dict[str, Any] = {"reference": "shapley-sampling", "permutations": 2048}
FIELDS: dict[str, Any] = {"layer": "last_conv", "target": "282", "metrics": "false", "include": "attribution"}

Map = npt.NDArray[np.float64]


def cosine(one: Map, other: Map) -> float:
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def ranks(found: Map) -> Map:
    """Places in ascending order; no two values are equal here."""
    assert len(np.unique(found)) == found.size
    return found.ravel().argsort().argsort().astype(np.float64)


def centred(found: Map) -> Map:
    return found - found.mean()


@pytest.fixture(scope="module")
def shapley(client: httpx.Client, chelsea: bytes) -> Map:
    """The Shapley values as another request samples them, with draws of its own."""
    return values(ask_one(client, chelsea, method="shapley-sampling", permutations=4096, seed=7, **FIELDS))


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "shapleycam-h", "aumann-shapley", "fakecam"])
def test_the_figures_are_those_of_the_two_attributions(
    client: httpx.Client, chelsea: bytes, shapley: Map, method: str
) -> None:
    explanation = ask_one(client, chelsea, method=method, **FIELDS, **REFERENCE)
    found, fidelity = values(explanation), explanation["fidelity"]
    assert list(fidelity) == NAMES
    assert fidelity["pearson"] == pytest.approx(cosine(centred(found), centred(shapley)), abs=0.005)
    assert fidelity["cosine"] == pytest.approx(cosine(found, shapley), abs=0.005)
    distance = np.linalg.norm(found - shapley) / np.linalg.norm(shapley)
    assert fidelity["relative_l2"] == pytest.approx(distance, abs=0.01, rel=0.01)
    if method != "fakecam":  # all of whose ranks but one are tied
        expected = cosine(centred(ranks(found)), centred(ranks(shapley)))
        assert fidelity["spearman"] == pytest.approx(expected, abs=0.02)
    # Shapley values sum to what there is.
    gap = abs(found.sum() - shapley.sum()) / abs(shapley.sum())
    assert fidelity["efficiency_gap"] == pytest.approx(gap, abs=1e-3)
    if explanation["efficiency"] is not None:
        attributed, available = explanation["efficiency"].values()
        assert fidelity["efficiency_gap"] == pytest.approx(abs(attributed - available) / abs(available), abs=1e-5)


def test_the_first_order_is_exact_where_the_utility_is_linear(client: httpx.Client, chelsea: bytes) -> None:
    fields = FIELDS | {"layer": "pre_gap"}
    explanation = ask_one(
        client, chelsea, method="hirescam", utility="pre-softmax", reference="shapley-sampling", **fields
    )
    assert explanation["fidelity"] == pytest.approx(
        {"pearson": 1, "spearman": 1, "cosine": 1, "relative_l2": 0, "efficiency_gap": 0}, abs=1e-4
    )


def test_the_reference_draws_its_own_permutations(client: httpx.Client, chelsea: bytes) -> None:
    """Held against its own draws a sample would agree exactly, and say nothing."""
    explanation = ask_one(
        client, chelsea, method="shapley-sampling", reference="shapley-sampling", permutations=64, **FIELDS
    )
    errors = np.array(explanation["attribution"]["standard_error"])
    expected = np.sqrt(2) * np.linalg.norm(errors) / np.linalg.norm(values(explanation))
    assert expected / 2 < explanation["fidelity"]["relative_l2"] < 2 * expected
    assert explanation["fidelity"]["pearson"] > 0.99
    assert explanation["fidelity"]["efficiency_gap"] == pytest.approx(0, abs=1e-5)


def test_the_seed_decides_the_reference(client: httpx.Client, chelsea: bytes) -> None:
    few = {**FIELDS, "method": "aumann-shapley", "reference": "shapley-sampling", "permutations": 4}
    first, again, other = (ask_one(client, chelsea, seed=seed, **few)["fidelity"] for seed in (1, 1, 2))
    assert first == pytest.approx(again, rel=1e-3)
    assert first["relative_l2"] != pytest.approx(other["relative_l2"], rel=1e-3)


def test_fidelity_changes_nothing_else_and_is_null_where_it_was_not_asked_for(
    client: httpx.Client, chelsea: bytes
) -> None:
    fields = FIELDS | {"metrics": "true", "method": "gradcam"}
    plain, held = ask_one(client, chelsea, **fields), ask_one(client, chelsea, **fields, **REFERENCE)
    assert plain["fidelity"] is None
    assert held["fidelity"] is not None
    np.testing.assert_allclose(values(plain), values(held), rtol=1e-3, atol=1e-5)
    assert plain["metrics"] == pytest.approx(held["metrics"], abs=0.1)
    assert plain["forward_passes"] == held["forward_passes"] == 3
    # Its head has no units of the utility here, and yet a shape to compare.
    assert held["efficiency"] is None


def test_every_target_is_held_against_its_own_game(client: httpx.Client, chelsea: bytes) -> None:
    fields = FIELDS | {"method": "hirescam", "utility": "post-softmax"} | REFERENCE
    response = client.post("/v1/explain", files={"image": chelsea}, data={**fields, "target": ["282", "287"]}).json()
    together = [explanation["fidelity"] for explanation in response["explanations"]]
    alone = [ask_one(client, chelsea, **fields | {"target": target})["fidelity"] for target in ("282", "287")]
    for mine, theirs in zip(together, alone, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3)
    assert together[0] != pytest.approx(together[1], rel=1e-2)


def test_fidelity_travels_in_the_header(client: httpx.Client, chelsea: bytes) -> None:
    query = {**FIELDS, **REFERENCE, "method": "gradcam"}
    response = client.post("/v1/explain", content=chelsea, params=query, headers={**JPEG, "accept": "image/png"})
    (explanation,) = json.loads(response.headers["x-explanation"])["explanations"]
    assert explanation["fidelity"] == pytest.approx(ask_one(client, chelsea, **query)["fidelity"], abs=1e-3)

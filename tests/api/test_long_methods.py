"""Methods that sample, integrate or mask: what they promise, and what is refused since it would take too long."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from testing.pictures import encoded, photograph
from testing.serving import Service, serving
from tests.api.asking import JPEG, ask_one, values

FIELDS: dict[str, Any] = {"layer": "last_conv", "target": "282", "metrics": "false", "include": "attribution"}
SAMPLED: dict[str, Any] = FIELDS | {"method": "shapley-sampling"}
# A few seconds, so that work for hours is near.
BUDGET_S = 3.0


def errors(explanation: dict[str, Any]) -> npt.NDArray[np.float64]:
    found = np.array(explanation["attribution"]["standard_error"], dtype=np.float64)
    assert list(found.shape) == explanation["attribution"]["shape"]
    return found


def test_sampled_values_sum_to_what_there_is_and_say_how_sure_they_are(client: httpx.Client, chelsea: bytes) -> None:
    explanation = ask_one(client, chelsea, **SAMPLED)
    attributed, available = explanation["efficiency"].values()
    assert attributed == pytest.approx(available, rel=1e-5)
    assert (errors(explanation) > 0).all()
    assert errors(explanation).max() < 0.1 * np.abs(values(explanation)).max()


def test_standard_errors_say_how_far_two_samples_are_apart(client: httpx.Client, chelsea: bytes) -> None:
    one, other = (ask_one(client, chelsea, seed=seed, **SAMPLED) for seed in (0, 1))
    apart = (values(one) - values(other)) / np.hypot(errors(one), errors(other))
    # Forty-nine deviates of the standard normal distribution, nearly: their mean square is 1 +- 0.2.
    assert 0.3 < (apart**2).mean() < 2.5
    assert np.abs(apart).max() < 6


def test_four_times_the_permutations_halve_the_standard_errors(client: httpx.Client, chelsea: bytes) -> None:
    few, many = (errors(ask_one(client, chelsea, permutations=count, **SAMPLED)) for count in (256, 1024))
    assert few.mean() / many.mean() == pytest.approx(2, rel=0.15)


def test_one_pair_of_permutations_has_no_standard_error(client: httpx.Client, chelsea: bytes) -> None:
    explanation = ask_one(client, chelsea, permutations=2, **SAMPLED)
    assert explanation["attribution"]["standard_error"] is None
    assert np.isfinite(values(explanation)).all()


def test_methods_that_sample_nothing_have_no_standard_error(client: httpx.Client, chelsea: bytes) -> None:
    for method in ("hirescam", "randomcam", "aumann-shapley", "ablationcam", "liftcam", "fakecam"):
        explanation = ask_one(client, chelsea, **FIELDS | {"method": method})
        assert explanation["attribution"]["standard_error"] is None


def test_the_seed_decides_the_permutations(client: httpx.Client, chelsea: bytes) -> None:
    few = SAMPLED | {"permutations": 16}
    first, again, other = (ask_one(client, chelsea, seed=seed, **few) for seed in (5, 5, 6))
    np.testing.assert_allclose(values(first), values(again), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(errors(first), errors(again), rtol=1e-3, atol=1e-6)
    assert np.abs(values(first) - values(other)).max() > errors(first).min()


def test_a_tolerance_ends_the_sampling_early(client: httpx.Client, chelsea: bytes) -> None:
    many = SAMPLED | {"permutations": 4096}
    thorough = errors(ask_one(client, chelsea, **many))
    tolerance = 2 * float(thorough.max())
    early = errors(ask_one(client, chelsea, tolerance=tolerance, **many))
    assert early.max() <= tolerance
    assert early.mean() > 1.5 * thorough.mean()
    # One that is out of reach draws all.
    np.testing.assert_allclose(errors(ask_one(client, chelsea, tolerance=1e-9, **many)), thorough, rtol=1e-3)


def test_more_nodes_integrate_more_exactly(client: httpx.Client, chelsea: bytes) -> None:
    gaps = []
    for nodes in (1, 64):
        explanation = ask_one(client, chelsea, nodes=nodes, **FIELDS | {"method": "aumann-shapley"})
        attributed, available = explanation["efficiency"].values()
        gaps.append(abs(attributed - available) / available)
    # The kinks of a piecewise linear head leave a little.
    assert gaps[0] > 0.05
    assert gaps[1] < 0.01


def test_scorecam_takes_a_pass_for_each_channel_and_heads_alone_are_not_counted(
    client: httpx.Client, chelsea: bytes
) -> None:
    fields = {"model": "vit", "include": "attribution"}
    for metrics, further in (("false", 0), ("true", 1)):
        passes = {
            method: ask_one(client, chelsea, method=method, metrics=metrics, permutations=4, **fields)["forward_passes"]
            for method in ("scorecam", "ablationcam", "aumann-shapley", "shapley-sampling", "hirescam")
        }
        # The metrics explain the explanation map too, and take one more pass for its opposite.
        assert passes.pop("scorecam") == 65 * (1 + further) + further
        assert set(passes.values()) == {1 + 2 * further}


def test_what_would_take_hours_is_refused_with_its_estimate(client: httpx.Client, chelsea: bytes) -> None:
    for path, fields in [
        ("/v1/explain", {"method": "shapley-sampling"}),
        ("/v1/explain", {"method": "hirescam", "reference": "shapley-sampling"}),
        ("/v1/compare", {"method": ["gradcam", "shapley-sampling"]}),
    ]:
        fields |= {"layer": "blocks.3", "permutations": 65536, "metrics": "false"}
        response = client.post(path, files={"image": chelsea}, data=fields)
        assert response.status_code == 422, response.text
        error = response.json()
        assert (error["code"], error["detail"]["field"]) == ("invalid_parameter", "permutations")
        assert error["detail"]["estimate_s"] > error["detail"]["limit_s"] == 120
        assert error["detail"]["expected"]
        assert "shapley-sampling" in error["error"]
        assert response.elapsed.total_seconds() < 60
    # The same layer, asked for less, is answered.
    assert ask_one(client, chelsea, layer="blocks.3", metrics="false")["attribution"]["shape"] == [14, 14]


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that may take a few seconds for a request."""
    with serving(tmp_path_factory.mktemp("hurried"), models="vit", timeout_s=BUDGET_S) as running:
        yield running


@pytest.fixture(scope="module")
def hurried_client(hurried: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hurried.url, timeout=120) as client:
        yield client


PHOTO = encoded(photograph("rocket"), "JPEG")


def post(client: httpx.Client, **query: Any) -> httpx.Response:
    return client.post("/v1/explain", params={"metrics": "false", **query}, content=PHOTO, headers=JPEG)


def test_the_estimate_grows_with_the_work(hurried_client: httpx.Client) -> None:
    # A refusal has the layer timed again, at most every 30 s: all that follow judge by the same times.
    assert post(hurried_client, method="shapley-sampling", permutations=65536).status_code == 422
    # One thread does all that the device has to do, in order: with this answered, the layer is timed.
    assert hurried_client.post("/v1/predict", content=PHOTO, headers=JPEG).status_code == 200

    def estimate(**query: Any) -> float:
        response = post(hurried_client, method="shapley-sampling", **query)
        assert response.status_code == 422, response.text
        detail = response.json()["detail"]
        assert detail["limit_s"] == BUDGET_S
        assert detail["estimate_s"] > BUDGET_S
        return float(detail["estimate_s"])

    assert estimate(permutations=65536) == pytest.approx(2 * estimate(permutations=32768), rel=0.01)
    assert estimate(permutations=65536, smooth="flip") == pytest.approx(2 * estimate(permutations=65536), rel=0.01)
    assert estimate(permutations=65536, metrics="true") == pytest.approx(2 * estimate(permutations=65536), rel=0.01)
    # Targets share the permutations.
    several = estimate(permutations=65536, target=["0", "1", "2"])
    assert several == pytest.approx(estimate(permutations=65536), rel=0.01)


def test_a_layer_that_was_never_used_is_judged_once_it_is_known(hurried_client: httpx.Client) -> None:
    for _ in range(5):
        response = post(hurried_client, method="shapley-sampling", layer="blocks.2", permutations=65536)
        # A busy machine may need more than the budget to come to know it.
        if response.status_code != 504:
            break
    assert response.status_code == 422, response.text
    assert response.json()["detail"]["estimate_s"] > BUDGET_S


def test_others_are_answered_at_once_after_long_jobs_timed_out(hurried: Service, hurried_client: httpx.Client) -> None:
    # At the last block coalitions come cheap, in small pieces.
    long = {"method": "shapley-sampling", "layer": "blocks.5", "smooth": "flip-scale", "permutations": 65536}
    first = post(hurried_client, **long)
    if first.status_code == 422:
        share = 0.7 * BUDGET_S / first.json()["detail"]["estimate_s"]
        long["permutations"] = 2 * int(share * 65536 / 2)
    # Together they take many times the budget: whichever runs when it is over must make way.
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(hurried_client, **long), range(16)))
    started = time.perf_counter()
    assert hurried_client.post("/v1/predict", content=PHOTO, headers=JPEG).status_code == 200
    seconds = time.perf_counter() - started
    late = [answer for answer in answers if answer.status_code != 200]
    assert late
    for answer in late:
        assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
        assert answer.json()["detail"]["limit_s"] == BUDGET_S
    assert seconds < BUDGET_S
    assert "Traceback" not in hurried.log.read_text()

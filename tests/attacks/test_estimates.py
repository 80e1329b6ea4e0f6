"""Requests that ask for much in few words: targets, utilities, views, and layers that nobody has used before."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from testing.pictures import encoded, photograph
from testing.serving import Service, serving
from tests.attacks.neighbours import calm, neighbours

PICTURE = encoded(photograph("chelsea").resize((224, 224)), "JPEG")
TARGETS = [str(target) for target in range(16)]
UTILITIES = ["rest", "pre-softmax", "post-softmax", "log-softmax"]
EVERYTHING = {"target": TARGETS, "utility": UTILITIES, "metrics": "false", "max_side": "16"}
# Sixteen of the embedded network, early ones too, none of them named: what comes before the classifier is the dearer
# the earlier it is cut.
NEVER_USED = [
    *("conv_stem", "blocks.0", "blocks.1", "blocks.1.0", "blocks.2.1", "blocks.3.0", "blocks.4.2", "blocks.6"),
    *("bn1", "blocks.0.0", "blocks.1.1", "blocks.2", "blocks.3.1", "blocks.3", "blocks.4", "blocks.5.1"),
]


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that refuses nothing for the time it takes, so that the layers are really split."""
    with serving(tmp_path_factory.mktemp("patient"), timeout_s=3000) as running:
        yield running


def post(client: httpx.Client, path: str, fields: Mapping[str, Any]) -> httpx.Response:
    return client.post(path, files={"image": PICTURE}, data=fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "shapley-sampling", "permutations": "256"},
        {"method": "aumann-shapley", "nodes": "8", "layer": "last_conv"},
        {"method": "liftcam", "layer": "last_conv", "smooth": "flip"},
        {"method": "gradcam", "reference": "shapley-sampling"},
    ],
    ids=str,
)
def test_sixteen_targets_and_four_utilities_let_others_pass(patient: Service, fields: Mapping[str, str]) -> None:
    before = calm(patient)
    with httpx.Client(base_url=patient.url, timeout=3000) as client, neighbours(patient) as seen:
        answer = post(client, "/v1/compare", EVERYTHING | fields)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["explanations"]) == len(TARGETS) * len(UTILITIES)
    seen.assert_unhurt(before)


def explain_at(client: httpx.Client, layers: Sequence[str]) -> list[Any]:
    fields = {"layer": list(layers), "metrics": "false", "include": "attribution"}
    answer = post(client, "/v1/explain", fields)
    assert answer.status_code == 200, answer.text
    (explanation,) = answer.json()["explanations"]
    assert len(explanation["attribution"]) == len(layers)
    return list(explanation["attribution"])


def test_layers_that_were_never_used_let_others_pass_and_are_paid_for_once(patient: Service) -> None:
    before = calm(patient)
    with httpx.Client(base_url=patient.url, timeout=3000) as client:
        with neighbours(patient) as seen:
            for layers in (NEVER_USED[:8], NEVER_USED[8:]):
                explain_at(client, layers)
        seen.assert_unhurt(before)

        # Asked again, and again in another order, they are known: there are more of them than are kept split.
        with neighbours(patient) as seen, ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda some: explain_at(client, some), (NEVER_USED[4:12], NEVER_USED[:8])))
        seen.assert_unhurt(before)

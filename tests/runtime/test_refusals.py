"""What would take too long is refused; what was timed in a busy moment is timed again, and never for worse."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields, replace

import numpy as np
import pytest
import torch

from app.cam.cost import Costs
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.utilities import UTILITIES
from app.cam.work import SamplingOptions
from app.errors import InvalidParameter
from app.runtime.backend import ExplainRequest
from app.runtime.served import ServedNetwork
from app.runtime.worker import DeviceWorker
from service_models import Network, load_network, resolve
from service_models.config import read_config

CONFIG = '[networks.vit]\narchitecture = "timm:test_vit"\nweights = "random"\nclasses = 10\n'
CPU = torch.device("cpu")
SAMPLING = Question(
    0, METHODS["shapley-sampling"], UTILITIES["rest"], sampling=SamplingOptions(permutations=2), metrics=False
)
# Far more than any of this takes.
LIMIT_S = 600.0
HUGE, TINY = Costs(*[1e4] * len(fields(Costs))), Costs(*[1e-9] * len(fields(Costs)))
OTHER = "blocks.1"
WAIT_S = 60


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """A small transformer."""
    config = tmp_path_factory.mktemp("networks") / "networks.toml"
    config.write_text(CONFIG)
    return load_network(resolve("vit", read_config(config)), CPU)


@pytest.fixture
def served(network: Network) -> Iterator[ServedNetwork]:
    worker = DeviceWorker(CPU)
    served = ServedNetwork(network, worker)
    served.warm()
    yield served
    worker.close()


@pytest.fixture
def path(network: Network) -> str:
    (path,) = network.layers.values()
    return path


def judge(served: ServedNetwork, *paths: str, limit_s: float = LIMIT_S, question: Question = SAMPLING) -> None:
    served.admit(ExplainRequest(paths, (question,), limit_s=limit_s))


def refusal(served: ServedNetwork, *paths: str, limit_s: float = LIMIT_S) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as refused:
        judge(served, *paths, limit_s=limit_s)
    return refused.value


def let_the_worker_finish(served: ServedNetwork) -> None:
    done = threading.Event()
    served.worker.submit(done.set)
    assert done.wait(WAIT_S)


def set_costs(served: ServedNetwork, path: str, costs: Costs) -> None:
    served.layers._costs[path] = costs


def costs_of(served: ServedNetwork, *paths: str) -> Sequence[Costs]:
    return [served.layers._costs[path] for path in paths]


def test_what_was_timed_far_too_high_is_refused_once_and_passes_afterwards(served: ServedNetwork, path: str) -> None:
    judge(served, path)
    set_costs(served, path, HUGE)
    error = refusal(served, path)
    assert (error.code, error.status, error.detail["field"]) == ("invalid_parameter", 422, "permutations")
    assert error.detail["estimate_s"] > error.detail["limit_s"] == LIMIT_S
    let_the_worker_finish(served)
    judge(served, path)
    (costs,) = costs_of(served, path)
    assert all(0 <= part < 10 for part in astuple(costs))


def test_the_layers_of_a_refusal_are_all_timed_again_named_or_not(served: ServedNetwork, path: str) -> None:
    judge(served, path, OTHER)  # never used: judged by what a split takes
    served.worker.submit(lambda: served.layers.split_at(OTHER))
    let_the_worker_finish(served)
    set_costs(served, path, HUGE)
    set_costs(served, OTHER, HUGE)
    refusal(served, path, OTHER)
    for _ in range(2):  # one after the other, so that whoever waits has a turn in between
        let_the_worker_finish(served)
    judge(served, path, OTHER)
    assert all(part < 10 for costs in costs_of(served, path, OTHER) for part in astuple(costs))


def test_estimates_are_made_lower_and_never_higher(served: ServedNetwork, path: str) -> None:
    set_costs(served, path, TINY)
    refusal(served, path, limit_s=0.0)
    let_the_worker_finish(served)
    (costs,) = costs_of(served, path)
    # A part that is the difference of two times may be none at all.
    assert all(found <= tiny for found, tiny in zip(astuple(costs), astuple(TINY), strict=True))


def test_each_part_keeps_the_least_of_its_own_times(served: ServedNetwork, path: str) -> None:
    set_costs(served, path, replace(HUGE, head_row_s=TINY.head_row_s))
    refusal(served, path)
    let_the_worker_finish(served)
    (costs,) = costs_of(served, path)
    assert costs.head_row_s == TINY.head_row_s
    assert TINY.image_s < costs.image_s < HUGE.image_s
    assert TINY.coalition_s < costs.coalition_s < HUGE.coalition_s


def test_many_refusals_have_the_network_timed_once_in_a_while(served: ServedNetwork, path: str) -> None:
    set_costs(served, path, HUGE)
    refusal(served, path)
    let_the_worker_finish(served)
    set_costs(served, path, HUGE)
    for _ in range(3):
        refusal(served, path)
    let_the_worker_finish(served)
    assert costs_of(served, path) == [HUGE]
    served._measured_at -= 31
    refusal(served, path)
    let_the_worker_finish(served)
    judge(served, path)


def test_what_passes_has_nothing_timed_again(served: ServedNetwork, path: str) -> None:
    set_costs(served, path, replace(TINY, image_s=1.0))
    judge(served, path)
    let_the_worker_finish(served)
    assert costs_of(served, path) == [replace(TINY, image_s=1.0)]


def test_a_request_that_ends_far_before_its_estimate_has_the_network_timed_again(
    served: ServedNetwork, path: str
) -> None:
    # Otherwise a service that starts on a busy machine takes quick requests for long ones, and lets none share a batch.
    set_costs(served, path, HUGE)
    cheap = replace(SAMPLING, method=METHODS["gradcam"], sampling=SamplingOptions())
    height, width = served.network.preprocessing.input_size
    pixels = np.zeros((height, width, 3), np.uint8)
    asyncio.run(served.explain(pixels, ExplainRequest((path,), (cheap,))))
    let_the_worker_finish(served)
    (costs,) = costs_of(served, path)
    assert all(part < 10 for part in astuple(costs))


def test_the_field_to_blame_is_that_of_the_costliest_method(served: ServedNetwork, path: str) -> None:
    set_costs(served, path, HUGE)
    for method, field in [("aumann-shapley", "nodes"), ("scorecam", "method"), ("gradcam", "method")]:
        with pytest.raises(InvalidParameter, match=method) as refused:
            judge(served, path, question=Question(0, METHODS[method], UTILITIES["rest"], metrics=False))
        assert refused.value.detail["field"] == field
    with pytest.raises(InvalidParameter, match="shapley-sampling"):
        judge(served, path, question=Question(0, METHODS["gradcam"], UTILITIES["rest"], metrics=False, reference=True))

"""What would take too long is refused; what was timed in a busy moment is timed again, and never for worse."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace

import pytest
import torch

from app.cam.cost import Costs
from app.cam.game import Effort
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.utilities import UTILITIES
from app.errors import InvalidParameter
from app.runtime.served import ServedNetwork
from app.runtime.worker import DeviceWorker
from service_models import Network, load_network, read_config, resolve

CONFIG = '[networks.vit]\narchitecture = "timm:test_vit"\nweights = "random"\nclasses = 10\n'
CPU = torch.device("cpu")
SAMPLING = Question(0, METHODS["shapley-sampling"], UTILITIES["rest"], effort=Effort(permutations=2), metrics=False)
# Far more than any of this takes.
LIMIT_S = 600.0
HUGE, TINY = Costs(1e4, 1e4, 1e4), Costs(1e-9, 1e-9, 1e-9)
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
    served.refuse_beyond(limit_s, paths, [question], "none")


def refusal(served: ServedNetwork, *paths: str, limit_s: float = LIMIT_S) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as refused:
        judge(served, *paths, limit_s=limit_s)
    return refused.value


def let_the_worker_finish(served: ServedNetwork) -> None:
    done = threading.Event()
    served.worker.start(done.set)
    assert done.wait(WAIT_S)


def set_costs(served: ServedNetwork, path: str, costs: Costs) -> None:
    served._named[path] = (served._named[path][0], costs)


def costs_of(served: ServedNetwork, *paths: str) -> Sequence[Costs]:
    return [(served._named | served._others)[path][1] for path in paths]


def test_what_was_timed_far_too_high_is_refused_once_and_passes_afterwards(served: ServedNetwork, path: str) -> None:
    judge(served, path)
    set_costs(served, path, HUGE)
    error = refusal(served, path)
    assert (error.code, error.status, error.detail["field"]) == ("invalid_parameter", 422, "permutations")
    assert error.detail["estimate_s"] > error.detail["limit_s"] == LIMIT_S
    let_the_worker_finish(served)
    judge(served, path)
    (costs,) = costs_of(served, path)
    assert all(0 < part < 10 for part in astuple(costs))


def test_the_layers_of_a_refusal_are_all_timed_again_named_or_not(served: ServedNetwork, path: str) -> None:
    judge(served, path, OTHER)  # never used, and not judged
    served.worker.start(lambda: served.split_at(OTHER))
    let_the_worker_finish(served)
    set_costs(served, path, HUGE)
    served._others[OTHER] = (served._others[OTHER][0], HUGE)
    refusal(served, path, OTHER)
    let_the_worker_finish(served)
    judge(served, path, OTHER)
    assert all(part < 10 for costs in costs_of(served, path, OTHER) for part in astuple(costs))


def test_estimates_are_made_lower_and_never_higher(served: ServedNetwork, path: str) -> None:
    set_costs(served, path, TINY)
    refusal(served, path, limit_s=0.0)
    let_the_worker_finish(served)
    assert costs_of(served, path) == [TINY]


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


def test_the_field_to_blame_is_that_of_the_costliest_method(served: ServedNetwork, path: str) -> None:
    set_costs(served, path, HUGE)
    for method, field in [("aumann-shapley", "nodes"), ("scorecam", "method"), ("gradcam", "method")]:
        with pytest.raises(InvalidParameter, match=method) as refused:
            judge(served, path, question=Question(0, METHODS[method], UTILITIES["rest"], metrics=False))
        assert refused.value.detail["field"] == field
    with pytest.raises(InvalidParameter, match="shapley-sampling"):
        judge(served, path, question=Question(0, METHODS["gradcam"], UTILITIES["rest"], metrics=False, reference=True))

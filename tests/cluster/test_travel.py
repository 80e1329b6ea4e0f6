"""Questions, answers and errors arrive in another process as they were sent."""

import asyncio
import inspect
import pickle
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from app.cam import errors as of_cam
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.utilities import UTILITIES, utilities_of
from app.cluster.replica import NetworkReplica, Refusal
from app.errors import ERRORS, InvalidParameter
from app.runtime.backend import ExplainRequest
from app.runtime.jobs import JobResult
from app.settings import Settings
from service_models.scores import SCORE_FUNCTIONS, SIGMOID, ScoreFunction
from testing.pictures import photograph


def sent(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - of our own


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_errors_of_the_service_arrive_whole(error: type[Exception]) -> None:
    made = error("so not", headers={"Retry-After": "1"}, field="method", expected="another", limit_s=3.0)  # type: ignore[call-arg]
    found = sent(Refusal(made)).error  # type: ignore[arg-type]
    assert type(found) is error
    assert (str(found), vars(found)) == ("so not", vars(made))


def test_errors_of_the_engine_arrive_whole() -> None:
    made = [
        error("so not")
        for _, error in inspect.getmembers(of_cam, inspect.isclass)
        if error.__module__ == of_cam.__name__
    ]
    assert len(made) > 2
    assert [(type(error), str(error)) for error in map(sent, made)] == [(type(error), "so not") for error in made]


@pytest.mark.parametrize("scores", SCORE_FUNCTIONS.values(), ids=SCORE_FUNCTIONS)
def test_a_score_function_arrives_as_itself(scores: ScoreFunction) -> None:
    assert sent(scores) is scores


@pytest.mark.parametrize("method", METHODS)
def test_questions_arrive_with_the_same_method_and_utility(method: str) -> None:
    for utility in (*UTILITIES.values(), *utilities_of(SIGMOID).values()):
        question = Question(0, METHODS[method], utility, target=3, seed=7)
        assert sent(question) == question
        assert sent(question).method is METHODS[method]


@pytest.fixture(scope="module")
def replica() -> NetworkReplica:
    return NetworkReplica(Settings(device=("cpu",)), "tf_efficientnet_lite0")


def tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from tensors(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))


def test_answers_arrive_whole_and_carry_no_other_pictures(replica: NetworkReplica) -> None:
    pixels = np.asarray(photograph("chelsea").resize((224, 224)))
    pixels.flags.writeable = False
    questions = tuple(Question(0, METHODS["shapleycam"], UTILITIES["rest"], target=target) for target in (281, 285))
    request = ExplainRequest(("bn2",), questions)

    async def ask() -> list[JobResult[Any] | Refusal]:
        return await asyncio.gather(*(replica.explain(pixels, request) for _ in range(4)))

    for done in asyncio.run(ask()):
        assert isinstance(done, JobResult)
        arrived = sent(done)
        mine, theirs = list(tensors(done)), list(tensors(arrived))
        assert len(mine) == len(theirs) > 4
        for one, other in zip(mine, theirs, strict=True):
            assert torch.equal(one, other)
            assert other.untyped_storage().nbytes() == other.nbytes
        assert [explanation.target_class for explanation in arrived.result.explanations] == [281, 285]


def test_what_is_refused_is_an_answer(replica: NetworkReplica) -> None:
    pixels = np.zeros((224, 224, 3), dtype=np.uint8)
    request = ExplainRequest(("bn2",), (Question(0, METHODS["shapleycam"], UTILITIES["rest"]),), limit_s=60.0)
    refused = asyncio.run(replica.explain(pixels, replace(request, limit_s=1e-9)))
    assert isinstance(refused, Refusal)
    assert isinstance(refused.error, InvalidParameter)
    assert refused.error.detail["estimate_s"] >= 0
    later = asyncio.run(replica.admit(replace(request, limit_s=1e-9)))
    assert isinstance(later, Refusal)
    assert isinstance(asyncio.run(replica.admit(request)), ExplainRequest)
    nowhere = replace(request, paths=("nowhere",))
    assert asyncio.run(replica.explain(pixels, nowhere)).error is not None  # type: ignore[union-attr]
    assert asyncio.run(replica.why_not_ready(60.0)) is None

"""Long work is given up between two chunks once nobody waits for it, and never begun where it is given up earlier."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import torch
from torch import nn

from app.cam.chunks import images_at_once
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.utilities import UTILITIES
from app.imaging.reading import DecodeSpec
from app.runtime.backend import ExplainRequest, OnStart, ignore_start
from app.runtime.jobs import BatchKind
from app.runtime.picture_request import DecodedPicture, read_picture
from app.runtime.pipeline import Answer, explain
from app.runtime.runtime import Runtime
from app.runtime.served import ServedNetwork
from app.runtime.worker import DeviceWorker
from app.settings import Settings
from service_models import load_network, resolve
from service_models.config import read_config
from testing.pictures import encoded, photograph

CONFIG = '[networks.vit]\narchitecture = "timm:test_vit"\nweights = "random"\nclasses = 10\n'
PHOTO = encoded(photograph("chelsea"), "JPEG")
SCORECAM = Question(0, METHODS["scorecam"], UTILITIES["rest"], metrics=False)
CHANNELS = 64
WAIT_S = 60


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNetwork]:
    """A small transformer on a worker of its own."""
    config = tmp_path_factory.mktemp("networks") / "networks.toml"
    config.write_text(CONFIG)
    device = torch.device("cpu")
    worker = DeviceWorker(device)
    served = ServedNetwork(load_network(resolve("vit", read_config(config)), device), worker)
    served.warm()
    yield served
    worker.close()


@asynccontextmanager
async def decoded_for(served: ServedNetwork) -> AsyncIterator[DecodedPicture]:
    runtime = Runtime(Settings())
    try:
        async with read_picture(runtime.images, PHOTO, DecodeSpec.of(served.network.preprocessing)) as decoded:
            yield decoded
    finally:
        await runtime.images.pool.close()
        runtime.close()


def scorecam_request(served: ServedNetwork) -> ExplainRequest:
    return ExplainRequest(tuple(served.network.layers.values()), (SCORECAM,))


async def score(served: ServedNetwork, decoded: DecodedPicture, on_start: OnStart = ignore_start) -> Answer:
    return await explain(served, decoded, scorecam_request(served), on_start)


class Batches:
    """Counts the batches that a network is shown, and calls back as each begins."""

    def __init__(self, network: nn.Module, on_batch: Callable[[int], None] = lambda _number: None) -> None:
        self.count = 0
        self._on_batch = on_batch
        self._handle = network.get_submodule("patch_embed.proj").register_forward_pre_hook(self._note)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_error: object) -> None:
        self._handle.remove()

    def _note(self, _module: nn.Module, _inputs: object) -> None:
        self.count += 1
        self._on_batch(self.count)


def test_scorecam_shows_the_network_every_channel_where_somebody_waits(served: ServedNetwork) -> None:
    async def ask() -> Answer:
        async with decoded_for(served) as decoded:
            return await score(served, decoded)

    with Batches(served.network.model) as batches:
        answer = asyncio.run(ask())
    assert answer.output.explanations[0].forward_passes == 1 + CHANNELS
    # A network that turns out to be faster than was thought is timed again, which takes further passes.
    assert batches.count >= 1 + CHANNELS // images_at_once(answer.output.image)


def test_who_asks_is_told_on_the_devices_thread_when_it_begins_and_what_it_is_estimated_to_take(
    served: ServedNetwork,
) -> None:
    told: list[tuple[float | None, str, int]] = []

    async def ask() -> None:
        async with decoded_for(served) as decoded:
            with Batches(served.network.model) as batches:
                await score(served, decoded, lambda s: told.append((s, threading.current_thread().name, batches.count)))

    estimates = [served.layers.estimate(scorecam_request(served)).seconds]
    asyncio.run(ask())
    estimates.append(served.layers.estimate(scorecam_request(served)).seconds)  # it may be timed again meanwhile
    ((estimate, thread, passes),) = told
    assert estimate in estimates
    assert estimate is not None
    assert (thread, passes) == ("device-cpu", 0)


def test_a_job_that_nobody_waits_for_any_more_ends_with_the_batch_that_it_is_at(served: ServedNetwork) -> None:
    abandoned = threading.Event()

    async def give_up_at_the_third_batch() -> int:
        third = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_batch(number: int) -> None:
            if number == 3:
                loop.call_soon_threadsafe(third.set)
                assert abandoned.wait(WAIT_S)

        async with decoded_for(served) as decoded:
            with Batches(served.network.model, on_batch) as batches:
                job = asyncio.create_task(score(served, decoded))
                await asyncio.wait_for(third.wait(), WAIT_S)
                job.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await job
                abandoned.set()
                # The next in the queue has its turn.
                await asyncio.wait_for(
                    served.worker.run(BatchKind("next", lambda _batch, _pause: [None]), None), WAIT_S
                )
                return batches.count

    assert asyncio.run(give_up_at_the_third_batch()) == 3


def test_a_job_that_is_given_up_before_its_turn_is_never_begun(served: ServedNetwork) -> None:
    free = threading.Event()

    async def give_up_in_the_queue() -> int:
        async with decoded_for(served) as decoded:
            with Batches(served.network.model) as batches:
                held_up: BatchKind[None, bool] = BatchKind("before", lambda _batch, _pause: [free.wait(WAIT_S)])
                before = asyncio.create_task(served.worker.run(held_up, None))
                job = asyncio.create_task(score(served, decoded))
                await asyncio.sleep(0)
                job.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await job
                free.set()
                assert (await before).result
                await asyncio.wait_for(
                    served.worker.run(BatchKind("next", lambda _batch, _pause: [None]), None), WAIT_S
                )
                return batches.count

    assert asyncio.run(give_up_in_the_queue()) == 0

"""The evaluation on this machine: network after network, shard after shard, with images read ahead."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app import __version__
from app.cam.chunks import chunks
from app.cam.errors import CamError
from app.evaluation.boxes import Boxes
from app.evaluation.dataset import Dataset, DatasetEntry
from app.evaluation.errors import EvaluationError
from app.evaluation.evaluator import DatasetImage, Evaluator, UnreadableImage
from app.evaluation.plan import Plan
from app.evaluation.rows import ResultRow
from app.evaluation.store import Results
from app.process import processors
from app.runtime.checking import load_checked
from app.runtime.devices import choose_devices, set_precision
from app.runtime.served import engines_for
from app.settings import Settings
from service_models import NetworkError, find_networks

_LOG = logging.getLogger(__name__)

# A killed run loses one shard at most: half a minute on two processors.
SHARD_IMAGES = 64
_BATCHES_AHEAD = 2

# Errors of a network and not of the machine.
FAILURES = (NetworkError, EvaluationError, CamError)

OnProgress = Callable[[int], None]
"""Called with the number of images that are done."""


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """Everything that the workers of an evaluation must know; it can be sent to other machines.

    Attributes:
        settings: where weights and configuration lie, the device, and what runs the trunks.
        dataset: the images.
        plan: what is made of them.
        batch_size: how many images pass together.
        boxes: folder of annotations, for localisation.
        out: folder of the results.
    """

    settings: Settings
    dataset: Dataset
    plan: Plan
    batch_size: int
    boxes: Path | None
    out: Path

    @property
    def shards(self) -> list[Sequence[DatasetEntry]]:
        """The images, in portions that are written at once: whole batches, the same however often a run is resumed."""
        return list(chunks(self.dataset.items, self._shard_size))

    def images_of(self, shards: Sequence[int]) -> int:
        """How many images these shards have."""
        images, size = len(self.dataset.items), self._shard_size
        return sum(min(size, images - shard * size) for shard in shards)

    @property
    def _shard_size(self) -> int:
        return max(1, SHARD_IMAGES // self.batch_size) * self.batch_size

    @property
    def manifest(self) -> dict[str, Any]:
        """What the rows depend on, for all networks.

        Raises:
            DataError: an annotation of boxes cannot be used.
        """
        return {
            "version": __version__,
            "images": len(self.dataset.items),
            "dataset": self.dataset.fingerprint,
            "is_labelled": self.dataset.is_labelled,
            "boxes": Boxes(self.boxes).fingerprint(self.dataset.items) if self.boxes else None,
            "batch_size": self.batch_size,
            "precision": self.settings.precision,
            **asdict(self.plan),
        }

    def results(self) -> Results:
        """Where the rows go."""
        return Results(self.out)

    def missing(self, network: str) -> list[int]:
        """The shards of a network that are not there yet."""
        results, size = self.results(), self._shard_size
        return [number for number in range(-(-len(self.dataset.items) // size)) if not results.has(network, number)]

    def evaluator(self, name: str) -> Evaluator:
        """Loads a network and splits it.

        Raises:
            NetworkError: it cannot be loaded.
            EvaluationError: nothing that is asked has a meaning on it.
        """
        settings = self.settings
        set_precision(settings.precision)
        (spec,) = find_networks([name], settings.config)
        device = choose_devices(settings.device)[0]
        network = load_checked(spec, device, settings.weights_dir)
        boxes = Boxes(self.boxes) if self.boxes else None
        classes = {} if network.is_multi_label else self.dataset.class_indices(network.labels)
        engines = engines_for(settings.trunk, device)
        return Evaluator(network, self.plan, classes, boxes, engines, settings.precision)

    def begin_network(self, evaluator: Evaluator) -> None:
        """Notes what the rows of a network depend on besides, or checks that it is still the same.

        Raises:
            ResultsError: the results are of other weights or layers.
        """
        network = evaluator.network
        description = {
            "weights": network.weights,
            "preprocessing": asdict(network.preprocessing),
            "classes": len(network.labels),
            "layers": evaluator.paths,
        }
        self.results().begin_network(network.name, description)


def run_here(evaluation: EvaluationRun, networks: Sequence[str], progress: OnProgress) -> dict[str, str]:
    """Evaluates networks one after the other on this machine.

    Args:
        evaluation: what to do.
        networks: their names.
        progress: told of every batch.

    Returns:
        For each network that could not be evaluated, why.
    """
    failures = {}
    for name in networks:
        try:
            _evaluate_network(evaluation, name, progress)
        except FAILURES as error:
            # The other networks may take days: they go on.
            _LOG.error("%s", error)
            failures[name] = str(error)
    return failures


def _evaluate_network(evaluation: EvaluationRun, name: str, progress: OnProgress) -> None:
    if not (missing := evaluation.missing(name)):
        return
    evaluator = evaluation.evaluator(name)
    evaluation.begin_network(evaluator)
    results = evaluation.results()
    for shard, rows in evaluate_shards(evaluation, evaluator, missing, progress):
        results.write(name, shard, rows)


def evaluate_shards(
    evaluation: EvaluationRun, evaluator: Evaluator, shards: Sequence[int], progress: OnProgress = lambda _images: None
) -> Iterator[tuple[int, list[ResultRow]]]:
    """The rows of each shard, while the images of the next batches are read.

    Args:
        evaluation: has the images.
        evaluator: of the network.
        shards: their numbers.
        progress: told of every batch.
    """
    portions = evaluation.shards
    batches = [(shard, batch) for shard in shards for batch in chunks(portions[shard], evaluation.batch_size)]
    with ThreadPoolExecutor(processors(), thread_name_prefix="reader") as pool:
        waiting: deque[list[Future[DatasetImage | UnreadableImage]]] = deque()
        ahead = iter(batches)

        def read_on() -> None:
            for _, batch in ahead:
                waiting.append([pool.submit(_read, evaluation.dataset, evaluator, item) for item in batch])
                if len(waiting) > _BATCHES_AHEAD:
                    return

        try:
            rows: list[ResultRow] = []
            for number, (shard, batch) in enumerate(batches):
                read_on()
                rows += evaluator.evaluate([future.result() for future in waiting.popleft()])
                progress(len(batch))
                if number + 1 == len(batches) or batches[number + 1][0] != shard:
                    yield shard, rows
                    rows = []
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(dataset: Dataset, evaluator: Evaluator, item: DatasetEntry) -> DatasetImage | UnreadableImage:
    try:
        data: bytes | OSError = dataset.path(item).read_bytes()
    except OSError as error:
        data = error
    except ValueError as error:  # the name is no valid file name
        data = OSError(str(error))
    return evaluator.read(item, data)

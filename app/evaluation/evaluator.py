"""Evaluates batches of images on one network: all layers, methods and utilities in one go."""

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from app.cam.acceleration import accelerate
from app.cam.chunks import CHUNK_DIVISORS, smaller_chunks
from app.cam.engine import check_method, explain
from app.cam.errors import MethodError
from app.cam.methods import METHODS
from app.cam.questions import Explanation, Question, image_seed
from app.cam.sharing import SharedTrunk
from app.cam.split import GraphSplit, SplitNetwork
from app.cam.splitting import split_network
from app.cam.trunks import Engine, Precision
from app.cam.utilities import utilities_of
from app.errors import ImageError
from app.evaluation.boxes import Boxes, localise
from app.evaluation.dataset import DatasetEntry
from app.evaluation.errors import EvaluationError
from app.evaluation.plan import Combination, Plan
from app.evaluation.rows import ResultRow
from app.imaging.decode import open_image
from app.imaging.picture import Pixels, depth_warnings, pixels_of
from app.imaging.reading import DecodeSpec, read_image
from app.imaging.tensors import normalise
from app.imaging.view import make_view
from app.runtime.devices import is_out_of_memory
from service_models import Network
from service_models.calibration import structured_images

_LOG = logging.getLogger(__name__)

# Data sets are trusted more than posted files, but a header with a gigapixel is still a mistake.
_MAX_PIXELS = 256_000_000


@dataclass(frozen=True, slots=True)
class DatasetImage:
    """An image of the data set as the network sees it.

    Attributes:
        item: which one.
        pixels: the network's input before normalisation, HWC.
        digest: SHA-256 of the file.
        size: (width, height) of the upright original in px.
        warnings: what a reader must know of how it was read.
    """

    item: DatasetEntry
    pixels: Pixels
    digest: bytes
    size: tuple[int, int]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """An image that could not be read.

    Attributes:
        item: which one.
        reason: in words.
    """

    item: DatasetEntry
    reason: str


class Evaluator:
    """A network, split at all layers of a plan.

    Attributes:
        network: that is evaluated.
        paths: the module of each layer, by the layer's name.
        combinations: what is made of every image.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        classes: Mapping[str, int],
        boxes: Boxes | None = None,
        engines: Sequence[Engine] = (),
        precision: Precision = "float32",
    ) -> None:
        """Splits the network and puts the trunks on their engines.

        Args:
            network: loaded.
            plan: what is asked.
            classes: the class index of every label of the data set.
            boxes: of the objects, for localisation.
            engines: for the trunks, in order of preference.
            precision: of the trunks.

        Raises:
            EvaluationError: the network has none of the layers, or nothing that is asked has a meaning.
            LayerError: a layer has no spatial grid.
        """
        if network.is_multi_label and plan.target == "label":
            raise EvaluationError(
                f"--target: label: every label of {network.name} is true or false for itself, and the data set names "
                "one for an image; use predicted"
            )
        self.network = network
        self._utilities = utilities_of(network.scores)
        self._plan = plan
        self._classes = classes
        self._boxes = boxes
        modules = frozenset(path for path, _ in network.model.named_modules())
        self.paths = plan.layers_of(network.name, network.layers, modules)
        size, channels = network.preprocessing.input_size, network.preprocessing.channels
        self._splits = {name: split_network(network.model, path, size, channels) for name, path in self.paths.items()}
        self.combinations = self._meaningful(plan.combinations(self.paths))
        images = structured_images(3, size, torch.Generator().manual_seed(0), channels).to(network.device)
        self._shared = SharedTrunk(network.model, list(self._splits.values()), images)
        for split in self._splits.values():
            if isinstance(split, GraphSplit):
                accelerate(split, engines, images, precision)

    def split(self, layer: str) -> SplitNetwork:
        """The network split at a layer, by the layer's name."""
        return self._splits[layer]

    def read(self, item: DatasetEntry, data: bytes | OSError) -> DatasetImage | UnreadableImage:
        """Decodes an image and cuts out the network's evaluation view.

        Args:
            item: which one.
            data: its file, or why that could not be read.
        """
        if isinstance(data, OSError):
            return UnreadableImage(item, f"cannot be read: {data.strerror or data}")
        try:
            spec = DecodeSpec.of(self.network.preprocessing)
            read = read_image(open_image(data, _MAX_PIXELS), spec)
        except ImageError as error:
            return UnreadableImage(item, str(error))
        pixels = pixels_of(read.view, spec, is_deep=read.depth is not None)
        size = (read.width, read.height)
        return DatasetImage(
            item, pixels, hashlib.sha256(data).digest(), size, depth_warnings(read.depth, spec.max_value)
        )

    def evaluate(self, batch: Sequence[DatasetImage | UnreadableImage]) -> list[ResultRow]:
        """Makes the rows of some images, in their spec; no image changes the rows of another.

        Raises:
            torch.OutOfMemoryError: a single row of work does not fit the device.
        """
        rows = self._within_memory([picture for picture in batch if isinstance(picture, DatasetImage)])
        rows += [
            ResultRow(
                index=unusable.item.index, image=unusable.item.name, network=self.network.name, error=unusable.reason
            )
            for unusable in batch
            if isinstance(unusable, UnreadableImage)
        ]
        return sorted(rows, key=lambda row: row.index)

    def _meaningful(self, combinations: list[Combination]) -> tuple[Combination, ...]:
        """The combinations that have a meaning at their layer; the others are logged."""
        kept, reasons = [], {}
        for combination in combinations:
            split = self._splits[combination.layer]
            try:
                check_method(split, METHODS[combination.method], self._utilities[combination.utility])
            except MethodError as error:
                reasons[combination] = str(error)
            else:
                kept.append(combination)
        if not kept:
            raise EvaluationError(f"{self.network.name}: {next(iter(reasons.values()))}")
        for combination, reason in reasons.items():
            _LOG.warning("%s, %s is left out: %s", self.network.name, combination.layer, reason)
        return tuple(kept)

    def _within_memory(self, pictures: Sequence[DatasetImage]) -> list[ResultRow]:
        """Explains pictures together, in halves where memory runs out, and a single one in smaller chunks."""
        if not pictures:
            return []
        for divisor in (1, *CHUNK_DIVISORS) if len(pictures) == 1 else (1,):
            try:
                with smaller_chunks(divisor):
                    return list(self._explain(pictures))
            except Exception as error:
                if not is_out_of_memory(error) or divisor == CHUNK_DIVISORS[-1]:
                    raise
                _LOG.warning("%d images do not fit the memory of %s", len(pictures), self.network.device)
            if self.network.device.type == "cuda":
                torch.cuda.empty_cache()
        middle = len(pictures) // 2
        return [*self._within_memory(pictures[:middle]), *self._within_memory(pictures[middle:])]

    def _explain(self, pictures: Sequence[DatasetImage]) -> Iterator[ResultRow]:
        """Rows by layer, then by picture."""
        pixels = [torch.tensor(picture.pixels) for picture in pictures]
        images = normalise(pixels, self.network.preprocessing, self.network.device)
        # A network of several labels, each for itself, knows none for an image.
        labels = [None if p.item.label is None else self._classes.get(p.item.label) for p in pictures]
        seeds = [image_seed(self._plan.seed, picture.digest) for picture in pictures]
        states = self._shared.states(images)
        targets: list[int] | None = labels if self._plan.target == "label" else None  # type: ignore[assignment]
        for (layer, split), state in zip(self._splits.items(), states, strict=True):
            asked = [combination for combination in self.combinations if combination.layer == layer]
            questions = [
                Question(
                    number,
                    METHODS[combination.method],
                    self._utilities[combination.utility],
                    "predicted" if targets is None else targets[number],
                    seeds[number],
                )
                for number in range(len(pictures))
                for combination in asked
            ]
            explained = explain(split, images, questions, states=[state])
            predicted = explained.logits.argmax(dim=1).tolist()
            # Every layer explains the classes that the first one found.
            targets = targets or predicted
            probabilities = self.network.scores.probabilities(explained.logits.double()).cpu()
            for count, explanation in enumerate(explained.explanations):
                number = explanation.question.image_index
                yield self._row(
                    pictures[number],
                    asked[count % len(asked)],
                    explanation,
                    label=labels[number],
                    predicted_class=predicted[number],
                    probability=float(probabilities[number, explanation.target_class]),
                    **self._localisation(pictures[number], explanation.heatmap),
                )

    def _row(
        self,
        picture: DatasetImage,
        combination: Combination,
        explanation: Explanation,
        **facts: Any,  # noqa: ANN401 - further fields of the row
    ) -> ResultRow:
        assert explanation.metrics is not None
        facts |= {name: value if math.isfinite(value) else None for name, value in explanation.metrics.items()}
        return ResultRow(
            index=picture.item.index,
            image=picture.item.name,
            network=self.network.name,
            layer=combination.layer,
            layer_path=self.paths[combination.layer],
            method=combination.method,
            utility=combination.utility,
            target_class=explanation.target_class,
            utility_value=explanation.utility_value,
            hvp_norm=explanation.hvp_norm,
            forward_passes=explanation.forward_passes,
            warnings=(*picture.warnings, *explanation.warnings),
            **facts,
        )

    def _localisation(self, picture: DatasetImage, heatmap: Tensor) -> dict[str, Any]:
        if self._boxes is None:
            return {}
        view = make_view(*picture.size, self.network.preprocessing, self.network.preprocessing.fit)
        return localise(heatmap.cpu().numpy(), self._boxes.of(picture.item), picture.size, view)

"""Evaluates batches of images on one network: all layers, methods and utilities in one go."""

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.cam.acceleration import accelerate
from app.cam.chunks import SMALLER, smaller_chunks
from app.cam.engine import check_method, explain
from app.cam.errors import MethodError
from app.cam.methods import METHODS
from app.cam.questions import Explanation, Question, image_seed
from app.cam.sharing import SharedTrunk
from app.cam.split import GraphSplit, SplitNetwork
from app.cam.splitting import split_network
from app.cam.trunks import Engine, Precision
from app.cam.utilities import UTILITIES
from app.evaluation.boxes import Boxes, localise
from app.evaluation.dataset import Item
from app.evaluation.errors import EvaluationError
from app.evaluation.plan import Combination, Plan
from app.evaluation.rows import Row
from app.imaging.decode import open_image
from app.imaging.errors import ImagingError
from app.imaging.reading import Order, read_image
from app.imaging.tensors import normalise
from app.imaging.view import make_view
from app.runtime.devices import is_out_of_memory
from service_models import Network
from service_models.lively import structured_images

_LOG = logging.getLogger(__name__)

# Data sets are trusted more than what is posted, but a header that claims a gigapixel is still a mistake.
_MAX_PIXELS = 256_000_000


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of the data set as the network sees it.

    Attributes:
        item: which one.
        pixels: HWC uint8, the network's input before normalisation.
        digest: SHA-256 of the file.
        size: (width, height) of the upright original in px.
    """

    item: Item
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    digest: bytes
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Unusable:
    """An image that could not be read.

    Attributes:
        item: which one.
        reason: in words.
    """

    item: Item
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
        self.network = network
        self._plan = plan
        self._classes = classes
        self._boxes = boxes
        modules = frozenset(path for path, _ in network.model.named_modules())
        self.paths = plan.layers_of(network.name, network.layers, modules)
        size = network.preprocessing.input_size
        self._splits = {name: split_network(network.model, path, size) for name, path in self.paths.items()}
        self.combinations = self._meaningful(plan.combinations(self.paths))
        images = structured_images(3, size, torch.Generator().manual_seed(0)).to(network.device)
        self._shared = SharedTrunk(network.model, list(self._splits.values()), images)
        for split in self._splits.values():
            if isinstance(split, GraphSplit):
                accelerate(split, engines, images, precision)

    def split(self, layer: str) -> SplitNetwork:
        """The network split at a layer, by the layer's name."""
        return self._splits[layer]

    def read(self, item: Item, data: bytes | OSError) -> Picture | Unusable:
        """Decodes an image and cuts out the network's evaluation view.

        Args:
            item: which one.
            data: its file, or why that could not be read.
        """
        if isinstance(data, OSError):
            return Unusable(item, f"cannot be read: {data.strerror or data}")
        try:
            read = read_image(open_image(data, _MAX_PIXELS), Order.of(self.network.preprocessing))
        except ImagingError as error:
            return Unusable(item, str(error))
        return Picture(item, np.asarray(read.view), hashlib.sha256(data).digest(), (read.width, read.height))

    def evaluate(self, batch: Sequence[Picture | Unusable]) -> list[Row]:
        """Makes the rows of some images, in their order; each as if the others were not there.

        Raises:
            torch.OutOfMemoryError: a single row of work does not fit the device.
        """
        rows = self._within_memory([picture for picture in batch if isinstance(picture, Picture)])
        rows += [
            Row(index=unusable.item.index, image=unusable.item.name, network=self.network.name, error=unusable.reason)
            for unusable in batch
            if isinstance(unusable, Unusable)
        ]
        return sorted(rows, key=lambda row: row.index)

    def _meaningful(self, combinations: list[Combination]) -> tuple[Combination, ...]:
        """What has a meaning at its layer; the rest is named in the log."""
        kept, reasons = [], {}
        for combination in combinations:
            split = self._splits[combination.layer]
            try:
                check_method(split, METHODS[combination.method], UTILITIES[combination.utility])
            except MethodError as error:
                reasons[combination] = str(error)
            else:
                kept.append(combination)
        if not kept:
            raise EvaluationError(f"{self.network.name}: {next(iter(reasons.values()))}")
        for combination, reason in reasons.items():
            _LOG.warning("%s, %s is left out: %s", self.network.name, combination.layer, reason)
        return tuple(kept)

    def _within_memory(self, pictures: Sequence[Picture]) -> list[Row]:
        """Explains pictures together, or in halves where they do not fit the device, and one in ever smaller chunks."""
        if not pictures:
            return []
        for divisor in (1, *SMALLER) if len(pictures) == 1 else (1,):
            try:
                with smaller_chunks(divisor):
                    return list(self._explain(pictures))
            except Exception as error:
                if not is_out_of_memory(error) or divisor == SMALLER[-1]:
                    raise
                _LOG.warning("%d images do not fit the memory of %s", len(pictures), self.network.device)
            if self.network.device.type == "cuda":
                torch.cuda.empty_cache()
        middle = len(pictures) // 2
        return [*self._within_memory(pictures[:middle]), *self._within_memory(pictures[middle:])]

    def _explain(self, pictures: Sequence[Picture]) -> Iterator[Row]:
        """Rows by layer, then by picture."""
        pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
        images = normalise(pixels, self.network.preprocessing, self.network.device)
        labels = [None if p.item.label is None else self._classes[p.item.label] for p in pictures]
        seeds = [image_seed(self._plan.seed, picture.digest) for picture in pictures]
        states = self._shared.states(images)
        targets: list[int] | None = labels if self._plan.target == "label" else None  # type: ignore[assignment]
        for (layer, split), state in zip(self._splits.items(), states, strict=True):
            asked = [combination for combination in self.combinations if combination.layer == layer]
            questions = [
                Question(
                    number,
                    METHODS[combination.method],
                    UTILITIES[combination.utility],
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
            probabilities = explained.logits.double().softmax(dim=1).cpu()
            for place, explanation in enumerate(explained.explanations):
                number = explanation.question.image
                yield replace(
                    self._row(pictures[number].item, asked[place % len(asked)], explanation),
                    label=labels[number],
                    predicted_class=predicted[number],
                    probability=float(probabilities[number, explanation.target_class]),
                    **self._localisation(pictures[number], explanation.heatmap),
                )

    def _row(self, item: Item, combination: Combination, explanation: Explanation) -> Row:
        assert explanation.metrics is not None
        metrics: dict[str, Any] = {
            name: value if math.isfinite(value) else None for name, value in explanation.metrics.items()
        }
        return Row(
            index=item.index,
            image=item.name,
            network=self.network.name,
            layer=combination.layer,
            layer_path=self.paths[combination.layer],
            method=combination.method,
            utility=combination.utility,
            target_class=explanation.target_class,
            utility_value=explanation.utility_value,
            hvp_norm=explanation.hvp_norm,
            forward_passes=explanation.forward_passes,
            warnings=explanation.warnings,
            **metrics,
        )

    def _localisation(self, picture: Picture, heatmap: Tensor) -> dict[str, Any]:
        if self._boxes is None:
            return {}
        view = make_view(*picture.size, self.network.preprocessing)
        return localise(heatmap.cpu().numpy(), self._boxes.of(picture.item), picture.size, view)

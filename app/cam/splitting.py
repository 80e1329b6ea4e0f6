"""Splits a network at a layer: as a graph where it can be traced, with hooks otherwise."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.cam.chunks import Checkpoint, no_checkpoint
from app.cam.errors import LayerError
from app.cam.heads import HeadStructure
from app.cam.split import GraphSplit, HookSplit, SplitNetwork
from app.cam.structure import agree, probe
from app.cam.tracing import TracedNetwork, Untraceable, trace
from service_models.grid import Grid, grid_of
from service_models.layer_paths import RELU, ReluWatch, module_of

_LOG = logging.getLogger(__name__)


def split_network(model: nn.Module, layer: str, input_size: tuple[int, int], channels: int = 3) -> SplitNetwork:
    """Splits a frozen network at one of its modules.

    Args:
        model: network in eval mode without parameters that require gradients.
        layer: path of a module whose output has a spatial grid (NCHW, NHWC or tokens); `MODULE+relu` for what the
            ReLU makes of it that the network applies to this output.
        input_size: (height, width) of the input in px.
        channels: of the input.

    Returns:
        The split, checked against the whole network on two images of noise.

    Raises:
        LayerError: no such module, it is not reached, or its output has no spatial grid.
    """
    return Splitter(model, input_size, channels).split(layer)


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """The results of the experiments at a layer, without the graph; see `SplitNetwork`."""

    grid: Grid
    calls: int
    is_graph: bool
    structure: HeadStructure


class Splitter:
    """Splits one network at any of its layers, and makes every experiment once.

    A layer that was split before is only cut again: the results of the experiments are kept, and so is the reason why
    a layer cannot be split. So each layer costs its experiments once in the life of a process.

    Attributes:
        layers: what was found out about each.
    """

    def __init__(self, model: nn.Module, input_size: tuple[int, int], channels: int = 3) -> None:
        """Takes the network as it is, frozen and in eval mode.

        Args:
            model: the network.
            input_size: (height, width) of its input in px.
            channels: of its input.
        """
        self._model = model
        self._images = _noise(model, (channels, *input_size))
        self._modules = dict(model.named_modules())
        self._traced: TracedNetwork | Untraceable | None = None
        self._logits: Tensor | None = None
        self.layers: dict[str, LayerFacts] = {}
        self._refused: dict[str, str] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all modules, in the network's own order."""
        return tuple(self._modules)

    def split(self, layer: str, checkpoint: Checkpoint = no_checkpoint) -> SplitNetwork:
        """Splits the network at a module, or at the ReLU of its output.

        Args:
            layer: its path, `MODULE+relu` for the ReLU.
            checkpoint: called between the steps, none of which takes longer than a few images through the network.

        Raises:
            LayerError: no such module, it is not reached, or its output has no spatial grid.
        """
        if layer in self._refused:
            raise LayerError(self._refused[layer])
        try:
            return self._split_again(layer) if layer in self.layers else self._split_first_time(layer, checkpoint)
        except LayerError as error:
            if module_of(layer) in self._modules:  # so that callers can have only so many kept
                self._refused[layer] = str(error)
            raise

    def image_s(self, checkpoint: Checkpoint = no_checkpoint) -> float:
        """Measures what the whole network takes for one image, run as it is."""
        times = []
        for _ in range(2):
            checkpoint()
            started = time.perf_counter()
            with torch.no_grad():
                self._model(self._images)[0, 0].item()
            times.append(time.perf_counter() - started)
        return min(times) / len(self._images)

    def _split_first_time(self, layer: str, checkpoint: Checkpoint) -> SplitNetwork:
        checkpoint()
        grid, calls = self._inspect(layer)
        split = self._cut_and_check(layer, grid, calls, checkpoint)
        structure = probe(split, self._model, self._images, checkpoint)
        self.layers[layer] = LayerFacts(grid, split.calls, isinstance(split, GraphSplit), structure)
        _warn_of_missing_derivatives(layer, structure)
        return split.with_structure(structure)

    def _split_again(self, layer: str) -> SplitNetwork:
        facts = self.layers[layer]
        split: SplitNetwork
        if facts.is_graph:
            split = GraphSplit(layer, facts.grid, self._trace().cut(layer))
        else:
            split = HookSplit(self._model, layer, facts.grid, facts.calls)
        return split.with_structure(facts.structure)

    def _cut_and_check(self, layer: str, grid: Grid, calls: int, checkpoint: Checkpoint) -> SplitNetwork:
        try:
            checkpoint()
            traced = self._trace()
            checkpoint()
            split = GraphSplit(layer, grid, traced.cut(layer))
            self._check_rows(split, checkpoint)
        except Untraceable as reason:
            _LOG.info("'%s' is explained with hooks and whole forward passes (%s)", layer, reason)
            return HookSplit(self._model, layer, grid, calls)
        return split

    def _trace(self) -> TracedNetwork:
        """The graph of the whole network, which all layers share.

        Raises:
            Untraceable: it has none.
        """
        if self._traced is None:
            try:
                self._traced = trace(self._model, self._images)
            except Untraceable as reason:
                self._traced = Untraceable(*reason.args)
        if isinstance(self._traced, Untraceable):
            raise Untraceable(*self._traced.args)
        return self._traced

    def _inspect(self, layer: str) -> tuple[Grid, int]:
        """Runs the network once to see what the layer returns and how often its module runs."""
        module = module_of(layer)
        if not module or module not in self._modules:
            raise LayerError(f"the network has no module '{module}'")
        outputs: list[object] = []
        version = 0
        rectified: Tensor | None = None

        def note(_module: nn.Module, _inputs: object, output: object) -> None:
            nonlocal version, rectified
            outputs.append(output)
            version, rectified = getattr(output, "_version", 0), None

        def note_relu(entering: Tensor, apply: Callable[[], Tensor]) -> Tensor:
            nonlocal rectified
            follows = outputs and entering is outputs[-1] and entering._version == version and rectified is None
            output = apply()
            rectified = output if follows else rectified
            return output

        handle = self._modules[module].register_forward_hook(note)
        try:
            with torch.no_grad(), ReluWatch(note_relu):
                self._model(self._images[:1])
        finally:
            handle.remove()
        if not outputs:
            raise LayerError(f"the module '{module}' does not run in a forward pass")
        output = outputs[-1]
        if not isinstance(output, Tensor):
            raise LayerError(f"the module '{module}' does not return one tensor")
        if layer.endswith(RELU) and rectified is None:
            raise LayerError(f"there is no '{layer}': the network applies no ReLU to what '{module}' returns")
        grid = grid_of(self._model, output, (self._images.shape[-2], self._images.shape[-1]))
        if grid is None:
            shape = " x ".join(map(str, output.shape[1:]))
            raise LayerError(f"the output of '{layer}' ({shape}) has no spatial grid")
        return grid, len(outputs)

    def _check_rows(self, split: SplitNetwork, checkpoint: Checkpoint) -> None:
        """Compares trunk and head, on repeated rows, with the whole network."""
        checkpoint()
        if self._logits is None:
            with torch.no_grad():
                self._logits = self._model(self._images)
        rows = torch.tensor([1, 0, 1], device=self._images.device)
        try:
            state = split.trunk(self._images).take(rows)
            checkpoint()
            with torch.no_grad():
                found = split.head(state)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise Untraceable(f"its halves do not run: {error}") from error
        if not agree(found, self._logits[rows]):
            raise Untraceable("its halves do not give the logits of the whole")


def _warn_of_missing_derivatives(layer: str, structure: HeadStructure) -> None:
    if structure.no_second_derivative:
        _LOG.warning(
            "PyTorch has no %s of '%s', which follows '%s': methods that need it are refused there",
            "derivative" if structure.no_first_derivative else "second derivative",
            structure.no_second_derivative,
            layer,
        )


def _noise(model: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    reference = next((t for t in model.parameters()), torch.empty(0))
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return noise.to(reference)

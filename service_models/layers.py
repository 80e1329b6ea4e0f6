"""Finds the layers of a network that nobody named: what enters the pooling, the last convolution and norm."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service_models.calibration import structured_images
from service_models.errors import UnknownLayer
from service_models.grid import Grid, grid_of
from service_models.layer_paths import RELU, ReluWatch, module_of

# Of 1-D, where the grid is a sequence of tokens.
_ADAPTIVE_POOLING = (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(slots=True)
class _ReluCall:
    """A ReLU, of a function or a module; in place, what enters and what comes out are one tensor."""

    entering: Tensor
    version: int
    output: Tensor
    gradient: Tensor | None = None

    def takes_all_of(self, call: _ModuleCall) -> bool:
        """Whether the logits depend on what a module returned through this ReLU alone."""
        if call.output is self.output:
            return True
        if call.gradient is None or self.gradient is None:
            return False
        return torch.equal(call.gradient, torch.where(self.output > 0, self.gradient, 0.0))


@dataclass(slots=True)
class _ModuleCall:
    """The last call of one module that answered with a tensor."""

    path: str
    module: nn.Module
    output: Tensor
    version: int
    grid: Grid | None
    takes_image: bool
    takes_grid: bool
    gradient: Tensor | None = None
    relu: _ReluCall | None = None

    @property
    def affects_logits(self) -> bool:
        """Whether the logits depend on more than one position of the grid."""
        if self.grid is None or self.gradient is None:
            return False
        return int((_position_sizes(self.gradient, self.grid) > 0).sum()) > 1


def infer_layers(model: nn.Module, input_size: tuple[int, int], channels: int = 3) -> dict[str, str]:
    """Finds the layers to explain by one forward and one backward pass over a seeded picture.

    - `pre_gap`: the outermost module that returns the last tensor with a spatial grid, and `MODULE+relu` where
      its output passes through a ReLU that no module applies (torchvision's DenseNets). It is left out where
      the logits do not depend on that grid: in a vision transformer with a class token, the last patch tokens
      are never read. Modules that take the image itself are no layers. Pooling heads with insides of their
      own (attention pooling) are not looked into, chains (`nn.Sequential`) are.
    - `last_conv`: the last `nn.Conv2d` to run whose grid the logits depend on. It is left out where it runs
      in the first half of the layers with parameters: it is then a patch embedding or a stem.
    - `last_norm`: the last layer norm to run before `pre_gap` whose grid the logits depend on. In a Swin this
      is the second norm of the last block, where the catalogue follows the paper and names the first.

    Networks that end in other functions than a ReLU get the last module before these.

    Args:
        model: a classifier in eval mode, on any device.
        input_size: (height, width) of its input in px.
        channels: of its input.

    Returns:
        Layer names to module paths, in this order; names that the network has no layer for are missing.
    """
    grids = [entry for entry in _run(model, input_size, channels) if entry.grid is not None]
    names: dict[str, str] = {}
    pre_gap = _outermost(grids)
    if pre_gap is not None and pre_gap.affects_logits:
        names["pre_gap"] = pre_gap.path if pre_gap.relu is None else pre_gap.path + RELU
    learned = [entry for entry in grids if next(entry.module.parameters(recurse=False), None) is not None]
    for position, entry in enumerate(learned):
        if isinstance(entry.module, nn.Conv2d) and entry.affects_logits and 2 * position >= len(learned):
            names["last_conv"] = entry.path
    for entry in learned:
        if _is_layer_norm(entry.module) and entry.affects_logits and not _share_storage(entry, pre_gap):
            names["last_norm"] = entry.path
    return names


def check_layers(model: nn.Module, layers: Mapping[str, str], network: str) -> None:
    """Makes sure that each named layer is a module of the network, or the ReLU after one.

    Raises:
        UnknownLayer: one is not; the message lists close paths.
    """
    paths = [path for path, _ in model.named_modules() if path]
    for name, path in layers.items():
        if module_of(path) not in paths:
            close = difflib.get_close_matches(path, paths, n=5, cutoff=0.5)
            hint = f"; close paths: {', '.join(close)}" if close else ""
            raise UnknownLayer(f"{network}: {name}: the network has no module {path!r}{hint}")


def _run(model: nn.Module, input_size: tuple[int, int], channels: int) -> list[_ModuleCall]:
    """Runs the network once; its modules' outputs in the order of completion, with gradients."""
    parameter = next(model.parameters())
    picture = structured_images(1, input_size, torch.Generator().manual_seed(0), channels)
    picture = picture.to(parameter.device, parameter.dtype).requires_grad_()
    relus: list[_ReluCall] = []
    with torch.enable_grad(), _recording(model, picture, input_size) as executions, _noting_relus(relus):
        logits = model(picture)
    # Weighted at random: the plain sum of the logits may be constant.
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
    calls: list[_ModuleCall | _ReluCall] = [*executions, *relus]
    outputs = [call.output for call in calls]
    gradients = torch.autograd.grad((logits * weights).sum(), outputs, allow_unused=True)
    for call, gradient in zip(calls, gradients, strict=True):
        call.gradient = gradient
    _assign_relus(executions, relus)
    return _without_pooling_insides(executions)


def _noting_relus(relus: list[_ReluCall]) -> ReluWatch:
    def note(entering: Tensor, apply: Callable[[], Tensor]) -> Tensor:
        version = entering._version
        output = apply()
        if output.requires_grad:
            relus.append(_ReluCall(entering, version, output))
        return output

    return ReluWatch(note)


def _assign_relus(executions: list[_ModuleCall], relus: list[_ReluCall]) -> None:
    """Notes of each module call the ReLU that takes what it returned, all of it and as it was."""
    after = {(id(relu.entering), relu.version): relu for relu in relus}
    for entry in executions:
        relu = after.get((id(entry.output), entry.version))
        if relu is not None and relu.takes_all_of(entry):
            entry.relu = relu


@contextmanager
def _recording(model: nn.Module, picture: Tensor, input_size: tuple[int, int]) -> Iterator[list[_ModuleCall]]:
    last: dict[str, _ModuleCall] = {}

    def hook_for(path: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if not isinstance(output, Tensor) or not output.requires_grad or output.shape[:1] != (1,):
                return
            takes_grid = any(grid_of(model, value, input_size) is not None for value in inputs)
            takes_image = any(value is picture for value in inputs)
            # Taken out first, so that a module that runs again moves to the place of its last run.
            last.pop(path, None)
            # What adaptive pooling returns is no longer the grid that enters the pooling.
            grid = None if isinstance(module, _ADAPTIVE_POOLING) else grid_of(model, output, input_size)
            last[path] = _ModuleCall(path, module, output, output._version, grid, takes_image, takes_grid)

        return hook

    executions: list[_ModuleCall] = []
    handles = [module.register_forward_hook(hook_for(path)) for path, module in model.named_modules() if path]
    try:
        yield executions
    finally:
        for handle in handles:
            handle.remove()
    executions.extend(last.values())


def _without_pooling_insides(executions: list[_ModuleCall]) -> list[_ModuleCall]:
    """Leaves out what runs inside modules that turn a grid into none, unless they are plain chains."""
    pooling = tuple(
        f"{entry.path}."
        for entry in executions
        if entry.grid is None
        and entry.takes_grid
        and not entry.takes_image
        and not isinstance(entry.module, nn.Sequential)
    )
    return [entry for entry in executions if not (pooling and entry.path.startswith(pooling))]


def _outermost(grids: list[_ModuleCall]) -> _ModuleCall | None:
    """The outermost of the modules that return the last grid, the first to run of equals."""
    if not grids:
        return None
    last = grids[-1]
    # An in-place ReLU returns its input's own tensor, changed: the version tells the two apart.
    same = [entry for entry in grids if entry.output is last.output and entry.version == last.version]
    layers = [entry for entry in same if not entry.takes_image and not isinstance(entry.module, nn.Identity)]
    return min(layers or same, key=lambda entry: entry.path.count("."))


def _share_storage(entry: _ModuleCall, other: _ModuleCall | None) -> bool:
    """Whether both returned the same numbers, perhaps with their dimensions in another order."""
    if other is None:
        return False
    return entry.output.untyped_storage().data_ptr() == other.output.untyped_storage().data_ptr()


def _is_layer_norm(module: nn.Module) -> bool:
    # timm has its own RMS norms beside torch's.
    return isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or "RmsNorm" in type(module).__name__


def _position_sizes(gradient: Tensor, grid: Grid) -> Tensor:
    """The largest gradient at each position of the grid, flattened."""
    sizes = gradient[0].detach().abs()
    if grid.layout == "nchw":
        return sizes.amax(0).flatten()
    sizes = sizes.amax(-1).flatten()
    return sizes[grid.prefix_tokens :]

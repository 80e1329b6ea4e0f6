"""What methods must give at a layer of any network, in plain PyTorch: autograd, or differences of the utility alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from service_models.grid import Grid, grid_of
from service_models.layer_paths import RELU, module_of

_FIRST_STEP, _SECOND_STEP = 1e-6, 1e-4


class Oracle:
    """The utility `rest` of the activations of one layer, in plain PyTorch."""

    def __init__(self, model: nn.Module, layer: str, image: Tensor) -> None:
        """Runs the network once.

        Args:
            model: frozen, in float64.
            layer: path of a module, or `MODULE+relu`.
            image: (1, 3, height, width).
        """
        self._model, self._image = model, image
        self._module, self._rectified = model.get_submodule(module_of(layer)), layer.endswith(RELU)
        seen: list[Tensor] = []

        def note(output: Tensor) -> Tensor:
            seen.append(output.clone())
            return output

        with torch.no_grad(), self._exchanged(note, None):
            logits = model(image)
        self._calls = len(seen)
        self.target = int(logits.argmax())
        self.value = self._rest(logits)
        grid = grid_of(model, seen[-1], (image.shape[2], image.shape[3]))
        assert grid is not None
        self._grid: Grid = grid
        self._output = seen[-1]
        self.activations = self._players_of(self._output)

    def utility(self, activations: Tensor) -> Tensor:
        """U, with (1, channel, height, width) in the place of what the layer returned; other tokens stay."""
        output = self._output_of(activations)
        with self._exchanged(lambda _output: output, self._calls):
            return self._rest(self._model(self._image))

    def gradient(self, activations: Tensor) -> Tensor:
        """DU/dA by autograd."""
        activations = activations.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.utility(activations), activations, allow_unused=True)
        return torch.zeros_like(activations) if gradient is None else gradient

    def attributions(self, step: float, gradient: Tensor) -> dict[str, Tensor]:
        """What the methods shall give, (height, width) each; H A by differences of the gradient along A."""
        scaled = [self.gradient(self.activations * (1 + sign * step)) for sign in (1, -1)]
        hvp = (scaled[0] - scaled[1]) / (2 * step)
        return {
            "gradcam": _weighted(gradient.mean((2, 3), keepdim=True), self.activations),
            "hirescam": _weighted(gradient, self.activations),
            "shapleycam": _weighted((gradient - hvp / 2).mean((2, 3), keepdim=True), self.activations),
        }

    def attribution_at(self, row: int, column: int) -> dict[str, float]:
        """The same of one player, by differences of the utility alone.

        A channel's mean gradient is the derivative along a shift of all its positions. So gradcam is the derivative
        along D, which has the player's activations at every position, divided by their number; and D H A is the mixed
        second derivative along D and A.
        """
        a = self.activations
        players = a.shape[2] * a.shape[3]
        alone = torch.zeros_like(a)
        alone[:, :, row, column] = a[:, :, row, column]
        everywhere = a[:, :, row : row + 1, column : column + 1].expand_as(a)

        def u(direction: Tensor, first: float, second: float = 0.0) -> float:
            with torch.no_grad():
                return float(self.utility(a * (1 + second) + first * direction))

        def slope(direction: Tensor) -> float:
            return (u(direction, _FIRST_STEP) - u(direction, -_FIRST_STEP)) / (2 * _FIRST_STEP)

        h = _SECOND_STEP
        mixed = u(everywhere, h, h) - u(everywhere, h, -h) - u(everywhere, -h, h) + u(everywhere, -h, -h)
        gradcam = slope(everywhere) / players
        return {
            "gradcam": gradcam,
            "hirescam": slope(alone),
            "shapleycam": gradcam - mixed / (4 * h * h) / players / 2,
        }

    @contextmanager
    def _exchanged(self, exchange: Callable[[Tensor], Tensor], at_call: int | None) -> Iterator[None]:
        """Puts something else in the place of what the layer makes, at each call or at one."""
        calls, last, relu = 0, None, functional.relu

        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
            nonlocal calls, last
            calls += 1
            last = output
            return None if self._rectified or at_call not in (None, calls) else exchange(output)

        def exchanged_relu(maps: Tensor, inplace: bool = False) -> Tensor:
            output = relu(maps, inplace=inplace)
            return exchange(output) if maps is last and at_call in (None, calls) else output

        handle = self._module.register_forward_hook(hook)
        if self._rectified:
            functional.relu = exchanged_relu  # type: ignore[assignment]  # the name of its first argument
        try:
            yield
        finally:
            functional.relu = relu
            handle.remove()

    def _rest(self, logits: Tensor) -> Tensor:
        return logits[0, self.target] + functional.log_softmax(logits, dim=1)[0, self.target]

    def _players_of(self, output: Tensor) -> Tensor:
        grid = self._grid
        if grid.layout == "nchw":
            return output
        if grid.layout == "tokens":
            output = output[:, grid.prefix_tokens :].unflatten(1, (grid.height, grid.width))
        return output.movedim(-1, 1)

    def _output_of(self, activations: Tensor) -> Tensor:
        grid = self._grid
        if grid.layout == "nchw":
            return activations.clone()
        output = activations.movedim(1, -1)
        if grid.layout == "nhwc":
            return output.clone()
        return torch.cat((self._output[:, : grid.prefix_tokens], output.flatten(1, 2)), dim=1)


def _weighted(weights: Tensor, activations: Tensor) -> Tensor:
    return (weights * activations).sum(1)[0]

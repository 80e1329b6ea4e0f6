"""Random parameters under which a network behaves like a trained one; for tests and benchmarks only.

Untrained parameters as libraries set them are useless for explanations: logits deviate by anything from 1e-14
to 4e7, and the Hessian of the utilities is flat. Here one forward pass over photograph-like pictures normalises
every layer by what it computes on them ("All you need is a good init", Mishkin and Matas 2016), and a second
scales the classifier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase as RunningNorm

LOGIT_DEVIATION = 2.0

_PICTURES = 4
_LINEAR_MAPS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_SMALL = 1e-6
# Found by trial on photographs: without it, deep networks of SiLUs blow differences of contrast up.
_BIAS = 0.4
# Root mean square of what enters a gate.
_GATE = 0.3
# Logits that all pictures share, in multiples of those of one picture alone.
_COMMON = 2.0
# Learned scales that libraries start near zero so that a fresh residual branch adds nothing.
_SCALE_NAMES = ("gamma", "scale", "lambda", "alpha", "weight")
_EMBEDDING_NAMES = ("pos", "token", "bias_table", "embed")


def structured_images(count: int, input_size: tuple[int, int], generator: torch.Generator, channels: int = 3) -> Tensor:
    """Random pictures with the statistics of photographs: objects with sharp edges, shading, some texture.

    Args:
        count: how many.
        input_size: (height, width) in px.
        generator: a CPU generator.
        channels: of each picture.

    Returns:
        (count, channels, height, width), float32, as after normalisation: size near 1, within [-2.2, 2.6].
    """
    shape = (count, channels, *input_size)
    pictures = torch.zeros(shape)
    for octave in (2, 4, 8, 16, 32):
        smooth = _smooth_noise(shape, octave, generator)
        objects = _smooth_noise((count, 1, *input_size), octave, generator) > 0
        pictures = torch.where(objects, pictures + 1.2 * smooth / math.sqrt(octave), pictures)
        pictures += torch.where(objects, 1.0, -1.0) * torch.randn(count, channels, 1, 1, generator=generator) / octave
    texture = torch.randn(shape, generator=generator) * _smooth_noise((count, 1, *input_size), 4, generator)
    pictures += 0.15 * texture
    pictures -= 0.5 * pictures.mean((1, 2, 3), keepdim=True)
    amplitude = torch.linspace(0.8, 1.5, count).view(-1, 1, 1, 1)
    return (pictures * amplitude / pictures.square().mean((1, 2, 3), keepdim=True).sqrt()).clamp(-2.2, 2.6)


def _smooth_noise(shape: tuple[int, int, int, int], octave: int, generator: torch.Generator) -> Tensor:
    """Normal noise on a grid of about `octave` cells a side, interpolated; its colours go together."""
    count, channels, height, width = shape
    longest = max(height, width)
    rows, columns = max(2, octave * height // longest), max(2, octave * width // longest)
    noise = torch.randn(count, channels, rows, columns, generator=generator)
    grey = torch.randn(count, 1, rows, columns, generator=generator)
    return functional.interpolate(0.4 * noise + 0.9 * grey, size=(height, width), mode="bilinear")


def calibrate_random_weights(model: nn.Module, seed: int, input_size: tuple[int, int], channels: int = 3) -> nn.Module:
    """Sets every parameter of `model` at random, so that it computes like a trained network.

    Outputs of convolutions and linear layers get a deviation near one, running statistics of normalisation
    layers match, and logits deviate by about two over the classes. Equal seeds give equal parameters on one
    machine, whatever they were before; the global random state is left as it was.

    Args:
        model: a classifier on the CPU; left in eval mode.
        seed: of all randomness.
        input_size: (height, width) of the network's input in px.
        channels: of the network's input.

    Returns:
        The same model.
    """
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _draw_parameters(model, generator)
        pictures = structured_images(_PICTURES, input_size, generator, channels)
        with _normalising(model) as widths:
            model(pictures)
        _scale_classifier(widths, model, pictures)
    return model


def _draw_parameters(model: nn.Module, generator: torch.Generator) -> None:
    for module in model.modules():
        normalises = _is_norm(module)
        for name, parameter in module.named_parameters(recurse=False):
            if normalises:
                parameter.fill_(1.0 if name == "weight" else _BIAS)
            elif name == "bias":
                parameter.zero_()
            elif isinstance(module, _LINEAR_MAPS):
                _normal(parameter, 1 / math.sqrt(parameter[0].numel()), generator)
            else:
                _draw_other(name, parameter, generator)


def _draw_other(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    """Parameters that belong to no convolution, linear map or normalisation, by their usual names."""
    if any(part in name for part in _EMBEDDING_NAMES):
        _normal(parameter, 0.2, generator)
    elif _is_vector(parameter):
        start = float(parameter.flatten()[0])
        near_zero = abs(start) < 0.1 and any(part in name for part in _SCALE_NAMES)
        parameter.fill_(0.5 if near_zero else (start if _is_constant(parameter) else 0.0))
    else:
        _normal(parameter, 1 / math.sqrt(parameter[0].numel()), generator)


def _normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def _is_vector(parameter: Tensor) -> bool:
    return parameter.ndim == 0 or max(parameter.shape, default=1) == parameter.numel()


def _is_constant(parameter: Tensor) -> bool:
    return bool((parameter == parameter.flatten()[0]).all())


def _is_norm(module: nn.Module) -> bool:
    known = isinstance(module, (RunningNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm))
    return known or "norm" in type(module).__name__.lower()


@contextmanager
def _normalising(model: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """While open, each layer is normalised by the first batch that it sees.

    Yields the maps that ran, in order, with the number of features where each picture has one vector, else 0.
    """
    widths: dict[nn.Module, int] = {}

    def after_map(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if module in widths:
            return None
        widths[module] = output.shape[1] if output.flatten(1).shape[1] == output.shape[1] else 0
        return _normalise_map(cast("nn.Conv2d | nn.Linear", module), inputs, output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        _match_statistics(cast(RunningNorm, module), inputs[0])

    handles = []
    for module in model.modules():
        if isinstance(module, _LINEAR_MAPS):
            handles.append(module.register_forward_hook(after_map))
        elif isinstance(module, RunningNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        yield widths
    finally:
        for handle in handles:
            handle.remove()


def _normalise_map(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Divides the weights by the root mean square of the output; never by the deviation alone.

    Centring would leave deep layers only the differences between a few pictures, and depth blows these up on
    every other picture. Without it the network is nearly homogeneous: a picture with more contrast gives as
    much more deviation of the logits, and no more.
    """
    size = output.square().mean().sqrt()
    # One position: perhaps a gate (squeeze and excitation), which must stay far from saturation, or it feeds
    # back on the size of all that follows.
    gate = output.ndim == 2 or (output.ndim == 4 and output.shape[2:].numel() == 1)
    module.weight /= (size / _GATE).clamp_min(1.0) if gate else size.clamp_min(_SMALL)
    if isinstance(module, nn.Conv2d) and module.bias is not None and not gate:
        module.bias.fill_(_BIAS)
    return cast(Tensor, cast(Callable[..., Any], module.forward)(*inputs))


def _match_statistics(module: RunningNorm, activations: Tensor) -> None:
    """No mean is taken away and all channels are divided alike, for the same reason."""
    cast(Tensor, module.running_mean).zero_()
    cast(Tensor, module.running_var).fill_(float(activations.square().mean()) + _SMALL)


def _scale_classifier(widths: dict[nn.Module, int], model: nn.Module, pictures: Tensor) -> None:
    """Scales the classifier, or the heads that are averaged, so that logits deviate by `LOGIT_DEVIATION`.

    Part of what all pictures have in common is taken out by the bias, so that they are not all of one class.
    """
    logits = model(pictures).reshape(len(pictures), -1)
    heads = [map_ for map_, width in widths.items() if width == logits.shape[1]] or [list(widths)[-1]]
    biases = [head.bias for head in heads if isinstance(head.bias, Tensor)]
    if len(biases) == 1:
        common = logits.mean(0)
        ratio = float(_deviation(logits - common) / _deviation(common[None]))
        biases[0] -= (1 - min(1.0, _COMMON * ratio)) * common
        logits = model(pictures).reshape(len(pictures), -1)
    factor = LOGIT_DEVIATION / float(_deviation(logits))
    for parameter in (*biases, *(cast(Tensor, head.weight) for head in heads)):
        parameter *= factor


def _deviation(logits: Tensor) -> Tensor:
    """The standard deviation over the classes; the size of a single logit."""
    return logits.std(dim=1).mean() if logits.shape[1] > 1 else logits.square().mean().sqrt()

"""What DeepLIFT knows of each operation of a head: linear maps as they are, and rules for the rest."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from app.cam.quadrature import softmax_line


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Linear or affine in all of their tensors together.
_LINEAR = _names(
    """
    add sub subtract __rsub__ rsub neg negative positive cat concat concatenate stack hstack vstack dstack where
    masked_fill mean sum cumsum diff trace avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d interpolate upsample pad constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle fold
    view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze permute transpose swapaxes swapdims
    movedim moveaxis t T mT H mH expand expand_as broadcast_to broadcast_tensors repeat tile repeat_interleave
    __getitem__ __setitem__ select narrow index_select gather take_along_dim index_add index_copy scatter_add
    chunk split split_with_sizes tensor_split unbind unfold roll flip fliplr flipud rot90 tril triu diagonal
    clone contiguous copy to type_as float double half bfloat16 cpu cuda
    """
)
# Linear in any one of their tensors while the others are constants.
_LINEAR_IN_ONE = _names(
    """
    mul multiply matmul __matmul__ __rmatmul__ mm bmm mv dot inner outer einsum tensordot linear
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d addmm addbmm baddbmm addmv addcmul
    """
)
_PRODUCTS = frozenset({"mul", "multiply"})
_DIVISIONS = frozenset({"div", "divide", "true_divide"})
# Affine in their first tensor in eval mode; these pass `training` on by name, other spellings are refused.
_AFFINE_IN_EVAL = frozenset(
    {
        functional.batch_norm,
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
    }
)
_ELEMENTWISE = _names(
    """
    relu relu6 hardtanh leaky_relu prelu elu celu selu silu gelu sigmoid hardsigmoid hardswish tanh softplus mish
    logsigmoid log_sigmoid softsign tanhshrink softshrink exp expm1 log log1p erf clamp clip clamp_min clamp_max
    abs absolute square pow __rpow__ minimum maximum
    """
)
_SOFTMAXES = frozenset({"softmax", "log_softmax"})
# These read the shape or the type of a tensor, and never its values.
_SHAPE_READERS = _names(
    """
    size dim ndimension numel nelement stride storage_offset element_size is_contiguous is_floating_point is_complex
    get_device __len__ zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty
    _assert result_type
    """
)
_MAX_POOLS: dict[object, tuple[Callable[..., tuple[Tensor, Tensor]], int]] = {
    functional.max_pool1d: (functional.max_pool1d_with_indices, 1),
    functional.max_pool2d: (functional.max_pool2d_with_indices, 2),
    functional.max_pool3d: (functional.max_pool3d_with_indices, 3),
    functional.adaptive_max_pool1d: (functional.adaptive_max_pool1d_with_indices, 1),
    functional.adaptive_max_pool2d: (functional.adaptive_max_pool2d_with_indices, 2),
    functional.adaptive_max_pool3d: (functional.adaptive_max_pool3d_with_indices, 3),
    torch.max_pool1d: (functional.max_pool1d_with_indices, 1),
    torch.max_pool2d: (functional.max_pool2d_with_indices, 2),
    torch.max_pool3d: (functional.max_pool3d_with_indices, 3),
}

# Two points count as one below this distance, relative to 1 + |x|: where the rounding of the quotient (in float64)
# is as large as what the derivative between the two points neglects.
_COINCIDENCE = 1e-8


class NoRule(Exception):
    """The operation is neither linear nor has it a rule; the message names it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of an operation in a head.

    Attributes:
        func: as `__torch_function__` gets it, with its arguments.
        args: positional.
        kwargs: by name.
        inputs: those of its tensors that depend on the activations, in order.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        """The operation's name; the attribute's, if it is the reading of an attribute."""
        name = str(getattr(self.func, "__name__", self.func))
        return str(self.func.__self__.__name__) if name == "__get__" else name  # type: ignore[attr-defined]

    @property
    def reads_shape(self) -> bool:
        """Whether its result follows from the shapes and types of its inputs alone."""
        if getattr(self.func, "__name__", None) == "__get__":
            return not isinstance(self.run(), Tensor)
        return self.name in _SHAPE_READERS

    @property
    def in_place(self) -> bool:
        """Whether it overwrites its first tensor."""
        return _writes(self.name) or bool(self.kwargs.get("inplace"))

    def run(self) -> Any:  # noqa: ANN401 - whatever `func` returns
        """The call as it was made."""
        return self.func(*self.args, **self.kwargs)

    def at(self, point: Tensor) -> Tensor:
        """Its value with its only input moved to a point, all of its tensors in the point's precision."""

        def moved(value: object) -> object:
            if value is self.inputs[0]:
                return point.clone()  # the operation may be one in place
            return value.to(point.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        args = [moved(value) for value in self.args]
        output = self.func(*args, **{key: moved(value) for key, value in self.kwargs.items()})
        assert isinstance(output, Tensor)
        return output


Rule = Callable[[Operation, tuple[Tensor, ...]], tuple[Tensor, Tensor]]
"""Maps an operation and the reference values of its inputs, float64, to its value and to a linear map of its inputs,
whose coefficients are the multipliers of DeepLIFT."""


def tensors_in(values: object) -> Iterator[Tensor]:
    """The tensors among arguments or results, in order."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from tensors_in(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)


def rule_of(operation: Operation) -> Rule | None:
    """The operation's rule, None where autograd's own derivative is exact: for linear maps.

    Raises:
        NoRule: the operation is on no list, or more of its tensors depend on the activations than its rule takes.
    """
    name = operation.name.removesuffix("_") if _writes(operation.name) else operation.name
    if operation.kwargs.get("out") is not None:
        raise NoRule(f"{name} with 'out'")
    if name in _LINEAR:
        return None
    count = len(operation.inputs)
    starts = bool(operation.args) and operation.inputs[0] is operation.args[0]
    of_first = starts and count == 1
    if operation.in_place and not starts:
        raise NoRule(f"{operation.name} on a constant")
    if operation.func in _MAX_POOLS and of_first:
        return _pool
    if operation.func in _AFFINE_IN_EVAL and of_first:
        if operation.kwargs.get("training", True):
            raise NoRule(f"{name} in training mode")
        return None
    if name in _LINEAR_IN_ONE:
        if count == 1:
            return None
        if name in _PRODUCTS:
            return _multiply
        raise NoRule(f"{name} of two tensors that both depend on the activations")
    if name in _DIVISIONS and not operation.kwargs.get("rounding_mode"):
        if of_first:
            return None
        raise NoRule(f"{name} by a tensor that depends on the activations")
    if name in _ELEMENTWISE and count == 1:
        return _rescale
    if name in _SOFTMAXES and of_first:
        return _mean_slope
    raise NoRule(name.strip("_"))


def _writes(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _rescale(operation: Operation, references: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The Rescale rule (Shrikumar et al. 2017, Sec. 3.5.1): m = (f(x) - f(x0)) / (x - x0).

    In float64, so that float32 activations near their reference lose nothing by cancellation. Where the two meet the
    multiplier is the derivative.
    """
    (x,), (start,) = operation.inputs, references
    value = operation.at(x.detach())
    if value.shape != x.shape:
        raise NoRule(f"{operation.name} with a result larger than its input")
    end = x.detach().double()
    distance = end - start
    middle = ((start + end) / 2).requires_grad_()
    (slope,) = torch.autograd.grad(operation.at(middle).sum(), middle)
    apart = distance.abs() > _COINCIDENCE * (1 + end.abs())
    quotient = (operation.at(end) - operation.at(start)) / torch.where(apart, distance, 1)
    return value, torch.where(apart, quotient, slope).to(x.dtype) * x


def _mean_slope(operation: Operation, references: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """A softmax or its logarithm: the mean Jacobian along the line between the reference and the input."""
    (x,), (start,) = operation.inputs, references
    dim = operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("dim")
    if not isinstance(dim, int):
        raise NoRule(f"{operation.name} without its dimension")
    is_log = operation.name == "log_softmax"
    linear = x if is_log else torch.zeros_like(x)
    for point, weight in softmax_line(start, x.detach().double(), dim):
        p = torch.softmax(point, dim).to(x.dtype)
        mean = (p * x).sum(dim, keepdim=True)
        linear = linear + weight * (-mean if is_log else p * (x - mean))
    return operation.at(x.detach()), linear


def _multiply(operation: Operation, references: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The product rule: delta(ab) = delta a (b + b0) / 2 + delta b (a + a0) / 2, exact."""
    if len(operation.inputs) != 2:
        raise NoRule(f"{operation.name} of more than two tensors")
    a, b = operation.inputs
    mean_a, mean_b = (
        ((x.detach() + start) / 2).to(x.dtype) for x, start in zip(operation.inputs, references, strict=True)
    )
    return a.detach() * b.detach(), a * mean_b + b * mean_a


def _pool(operation: Operation, references: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Max pooling, as the authors' code does it: a rise of the maximum is due to where it is, a fall to where it was.

    The multiplier is the change of the maximum, divided by the change of the input at that position; at least as
    large, so the multiplier is within [0, 1]. Where windows overlap their contributions add up.
    """
    pool, dimensions = _MAX_POOLS[operation.func]
    options = {key: value for key, value in operation.kwargs.items() if key != "return_indices"}
    (x,), (start,) = operation.inputs, references
    end = x.detach().double()
    is_max, is_at = pool(end, *operation.args[1:], **options)
    was_max, was_at = pool(start, *operation.args[1:], **options)

    def pick(maps: Tensor, positions: Tensor) -> Tensor:
        return maps.flatten(-dimensions).gather(-1, positions.flatten(-dimensions)).view_as(positions)

    change = is_max - was_max
    moved = end - start
    rise = torch.where(change > 0, change, 0) / torch.where(change > 0, pick(moved, is_at), 1)
    fall = torch.where(change < 0, change, 0) / torch.where(change < 0, pick(moved, was_at), 1)
    # The same maximum at the same place: the limit of either quotient.
    rise = torch.where((change == 0) & (is_at == was_at), 1, rise)
    linear = rise.to(x.dtype) * pick(x, is_at) + fall.to(x.dtype) * pick(x, was_at)
    return is_max.to(x.dtype), linear


def dependent(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Those that depend on the activations; the parameters of the network are frozen."""
    return tuple(tensor for tensor in tensors if tensor.requires_grad)

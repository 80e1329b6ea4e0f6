"""Names the operation of a head that torch cannot differentiate, once or twice."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd.function import once_differentiable

from app.cam.convolution import frozen_conv2d
from app.cam.errors import MethodError

# What autograd, torchvision and cuDNN say, with the operation's name where they know it.
_COMPLAINTS = tuple(
    map(
        re.compile,
        (
            r"derivative for '?(?:aten::)?(?P<name>[\w:.]+?)'? is not implemented",
            r"[Dd]ouble backwards? (?:on|for) (?P<name>[\w:.]+) (?:is )?not supported",
            r"[Tt]rying to backward through (?P<name>[\w:.]+) but no autograd formula was registered",
            r"(?P<name>cudnn RNN) backward can only be called in training mode",
            r"(?P<name>torch\.utils\.checkpoint) is incompatible with \.grad\(\)",
            r"^(?P<name>[\w:.]+)(?:\(\))? is not differentiable",
            r"modified by an inplace operation: .*which is output \d+ of (?P<name>\w+?)(?:Backward\d*)?,",
            r"marked with @once_differentiable",
            r"must implement either the backward or vjp method for your custom autograd\.Function",
            r"Can't call numpy\(\) on Tensor that requires grad",
        ),
    )
)


class NoDerivative(MethodError):
    """The head has an operation that torch cannot differentiate as often as a method needs it.

    Attributes:
        operation: its name.
    """

    def __init__(self, operation: str, layer: str, *, second: bool, method: str = "the method") -> None:
        self.operation = operation
        which = "second derivative" if second else "derivative"
        others = "first-order methods such as gradcam" if second else "methods without gradients such as scorecam"
        super().__init__(
            f"{method} needs the {which} of '{operation}', which follows '{layer}' and for which PyTorch has none: "
            f"{others} work here"
        )


@contextmanager
def named_where_missing(layer: str, outputs: Tensor, *, second: bool) -> Iterator[None]:
    """Around a derivative of what the head made: what torch says of one that it does not have becomes `NoDerivative`.

    Args:
        layer: the target layer.
        outputs: what is differentiated.
        second: whether the second derivative is wanted.

    Raises:
        NoDerivative: with the operation's name.
    """
    try:
        yield
    except RuntimeError as error:
        for complaint in _COMPLAINTS:
            if found := complaint.search(str(error)):
                name = found.groupdict().get("name") or ", ".join(functions_in(outputs)) or "an operation"
                raise NoDerivative(_plain(name), layer, second=second) from error
        raise


def once_differentiable_in(outputs: Tensor) -> str | None:
    """The name of a function that made these outputs and of which its author says that it has no second derivative.

    Where only the derivative with respect to the activations is asked for, autograd does not complain of such a
    function: it leaves it out, and what it answers is wrong.
    """
    return next((name for name, function in functions_in(outputs).items() if _is_marked(function.backward)), None)


def _is_marked(backward: Callable[..., Any]) -> bool:
    """Whether a function is what `once_differentiable` makes of another."""
    code = getattr(backward, "__code__", None)
    return code is not None and code.co_filename == once_differentiable.__code__.co_filename


def functions_in(outputs: Tensor) -> dict[str, Any]:
    """The autograd functions written in Python that made these outputs, by name; not our own."""
    found: dict[str, Any] = {}
    seen = {outputs.grad_fn}
    stack = [outputs.grad_fn]
    while stack:
        node = stack.pop()
        if node is None:
            continue
        function = getattr(node, "_forward_cls", None)
        if function is not None and function.__module__ != frozen_conv2d.__module__:
            found[function.__name__] = function
        before = {earlier for earlier, _ in node.next_functions} - seen
        seen |= before
        stack.extend(before)
    return found


def _plain(name: str) -> str:
    """The operation's own name: a second derivative is one of the first."""
    return name.removeprefix("aten::").strip("_").removesuffix("_backward")

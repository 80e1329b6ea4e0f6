"""`python -m benchmarks.second_derivatives`: whether Hessian-vector products are right in every family of networks."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.cam.curvature import FORMULAS, TwiceDifferentiable
from app.cam.errors import CamError
from app.cam.split import HookSplit, SplitNetwork
from app.cam.splitting import split_network
from app.cam.state import SplitState
from app.cam.utilities import UTILITIES, Logits, Values
from benchmarks.small_networks import fewest_parameters, load, modules
from service_models.calibration import structured_images
from service_models.grid import grid_of
from service_models.libraries import Library

# In float64 the first leaves six digits, and hardly ever moves an input of a ReLU from one side of its kink to the
# other. Deep networks round more than most: the others are for these.
STEPS = (1e-8, 1e-7, 1e-6, 1e-5)
FAIR_ERROR = 1e-4
# What is wrong is so by a half or more.
LARGEST_ERROR = 2e-2
_TRIED = 4
_MOST_PARAMETERS = 100e6
# Names of small networks, the smallest first.
_SMALL = """
    test atto femto pico _zepto nano 005 _050 x0_5 xxs _xxt tiny _s0 _t0 _b0 _m0 _p4 _nf0 _l0 e_t _xs xsmall _mini micro
    small _035 128s 18 _s _t t_ 11 _a0 _lite 2s n_
"""


@dataclass(frozen=True, slots=True)
class DerivativeCheck:
    """What was found at one layer of a network.

    Attributes:
        layer: its path.
        is_hooked: whether the head is a whole forward pass.
        replaced: operations of the head in whose place formulas ran.
        refused: the operation that has no second derivative.
        error: distance of the Hessian-vector product from the differences, relative to the latter.
    """

    layer: str
    is_hooked: bool = False
    replaced: tuple[str, ...] = ()
    refused: str | None = None
    error: float | None = None

    @property
    def is_right(self) -> bool:
        """Whether the product is exact, or none is given."""
        return self.refused is not None or (self.error is not None and self.error <= LARGEST_ERROR)

    def __str__(self) -> str:
        if self.refused is not None:
            return f"refused: {self.refused}"
        replaced = f"replaced: {', '.join(self.replaced)}" if self.replaced else "as it is"
        return f"{replaced}; error {self.error:.0e}" if self.is_right else f"WRONG by {self.error:.1e}; {replaced}"


# These are replaced for their speed, or for a single point.
_ALSO_AS_THEY_ARE = (functional.batch_norm, functional.normalize)


class _Noting(TwiceDifferentiable):
    """Notes in whose place formulas run."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced: set[str] = set()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func in FORMULAS and func not in _ALSO_AS_THEY_ARE:
            self.replaced.add(func.__name__)
        return super().__torch_function__(func, types, args, kwargs)


def smallest(library: Library, names: list[str]) -> tuple[str, int]:
    """The architecture with the fewest parameters of the few whose names promise the fewest, and how many it has."""
    words = _SMALL.split()

    def promise(name: str) -> tuple[int, str]:
        return next((rank for rank, word in enumerate(words) if word in name), len(words)), name

    return fewest_parameters(library, sorted(names, key=promise)[:_TRIED])


def first_layer(model: nn.Module, image: Tensor) -> str | None:
    """The first module to run that returns a grid, but for those that are handed the image and return it."""
    found: list[str] = []
    size = (image.shape[2], image.shape[3])

    def hook_for(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if grid_of(model, output, size) is not None and isinstance(output, Tensor) and output.shape[1:2] != (3,):
                found.append(path)

        return hook

    handles = [module.register_forward_hook(hook_for(path)) for path, module in model.named_modules() if path]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return found[0] if found else None


def check(split: SplitNetwork, state: SplitState) -> DerivativeCheck:
    """Compares the Hessian-vector product with differences of gradients."""
    hooked = isinstance(split, HookSplit)
    if split.structure.no_second_derivative is not None:
        return DerivativeCheck(split.layer, hooked, refused=split.structure.no_second_derivative)
    noting = _Noting()
    with torch.no_grad():
        split.head(state, noting)

    def utility(logits: Logits) -> Values:
        return UTILITIES["rest"].of(logits, torch.zeros(len(logits), dtype=torch.int64))

    def gradients(scale: float) -> Tensor:
        scaled = state.with_activations(state.activations * scale)
        return split.differentiate(scaled, utility, second_order=False).gradients

    found = split.differentiate(state, utility, second_order=True)
    assert found.hvp is not None
    error = torch.inf
    for step in STEPS:
        expected = (gradients(1 + step) - gradients(1 - step)) / (2 * step)
        # What is nothing beside the gradient counts as zero: differences are no better than that.
        scale = expected.norm() + 1e-2 * found.gradients.norm()
        error = min(float((found.hvp - expected).norm() / scale), error)
        if error <= FAIR_ERROR:
            break
    return DerivativeCheck(split.layer, hooked, tuple(sorted(noting.replaced)), None, error)


def sweep(library: Library, name: str, *, named: bool) -> Iterator[DerivativeCheck]:
    """Checks a network at the first layer that has a grid, whose head has every operation, and at its named layers.

    Raises:
        NetworkError: it cannot be loaded.
    """
    network = load(library, name)
    model = network.model.double()
    size = network.preprocessing.input_size
    image = structured_images(1, size, torch.Generator().manual_seed(1)).double()
    for path in dict.fromkeys((first_layer(model, image), *(network.layers.values() if named else ()))):
        if path is None:
            continue
        try:
            split = split_network(model, path, size)
        except CamError as reason:
            print(f"    {name}: {reason}", flush=True)
            continue
        yield check(split, split.trunk(image))


def main() -> None:
    """Prints a row for each network and layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help="only these modules of torchvision and timm, such as levit")
    parser.add_argument("--part", default="0/1", help="only a part of all families: 2/10 is the third of ten")
    parser.add_argument("--named", action="store_true", help="also at the layers that requests can name")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small operations lose more by waiting for threads than they gain
    part, parts = map(int, options.part.split("/"))
    print("| family | network | layer | outcome |\n|---|---|---|---|", flush=True)
    for number, (library, module, names) in enumerate(modules()):
        if number % parts != part or (options.modules and module not in options.modules) or not names:
            continue
        name, parameters = smallest(library, names)
        if parameters > _MOST_PARAMETERS:
            print(
                f"| {library} {module} | {name} | | not tried: {parameters / 1e6:.0f} million parameters |", flush=True
            )
            continue
        started = time.perf_counter()
        try:
            for outcome in sweep(library, name, named=options.named):
                hooked = " (hooks)" if outcome.is_hooked else ""
                print(f"| {library} {module} | {name} | {outcome.layer}{hooked} | {outcome} |", flush=True)
        except Exception as error:  # any of two large libraries: the others are still to be seen
            print(f"| {library} {module} | {name} | | {type(error).__name__}: {str(error)[:200]} |", flush=True)
        print(f"    {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()

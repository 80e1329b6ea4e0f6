"""`python -m benchmarks.families`: whether attributions are right in every family of torchvision and timm.

One small network of each family, with random weights, is explained at every layer that it names and at one inner layer.
`gradcam`, `hirescam` and `shapleycam` are compared with an oracle that shares nothing with `app/cam` but the layout of
the layer: a forward hook puts other activations in the place of the layer's output, autograd differentiates the utility
once, and central differences of that gradient give the Hessian-vector product. Where a network works in place or keeps
what it computed, so that the hook does not give autograd what runs, differences of the utility alone decide.
"""

import argparse
import json
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.cam.engine import explain
from app.cam.errors import CamError
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import HookSplit, SplitNetwork
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from benchmarks.layer_oracle import Oracle
from benchmarks.second_derivatives import STEPS
from benchmarks.small_networks import fewest_parameters, load, modules
from service_models.calibration import structured_images
from service_models.grid import grid_of
from service_models.libraries import Library

METHOD_NAMES = ("gradcam", "hirescam", "shapleycam")
# Relative to the largest entry. What is wrong is so by far more; differences of gradients have fewer digits.
TOLERANCES = {"gradcam": 1e-5, "hirescam": 1e-5, "shapleycam": 1e-3}
# Differences of the utility alone have the fewest.
TOLERANCE_OF_DIFFERENCES = 1e-2
_FAIR = 1e-5
_MOST_PARAMETERS = 200e6
_TRIED = 8
# Players whose attributions are checked by differences of the utility: each takes some ten forward passes.
_PLAYERS = 6
_TIMEOUT_S = 600.0
# In the names of small networks.
_SMALL = re.compile(
    r"test|atto|femto|pico|zepto|nano|tiny|micro|mini|small|xx|xs|_t\b|_s\b|_ti|lite|[_a-z]0|_m1\b|11|18|26|_00|_0[0-9]"
    r"|x0_5|400mf|128s|16px|50t|300m|88m|_s_|_t_|_s1|_b1"
)


@dataclass(frozen=True, slots=True)
class Family:
    """Architectures of one module whose names begin alike."""

    library: Library
    module: str
    word: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.library} {self.module}" + (f" {self.word}" if self.word != self.module else "")


def families() -> list[Family]:
    """All of them; the first family of each module comes first."""
    first, others = [], []
    for library, module, names in modules():
        words: dict[str, list[str]] = {}
        for name in names:
            parts = re.findall(r"[a-z]+", name)
            word = "_".join(parts[:2]) if parts[0] in {"tf", "legacy", "test"} else parts[0]
            words.setdefault(word, []).append(name)
        if len(words) > 1:  # networks that serve the library's own tests
            words = {word: names for word, names in words.items() if not word.startswith("test_")} or words
        found = [Family(library, module, word, tuple(names)) for word, names in words.items()]
        found.sort(key=lambda family: -len(family.names))
        first += found[:1]
        others += found[1:]
    return first + others


def smallest(family: Family) -> tuple[str, int]:
    """The architecture with the fewest parameters, and how many; in a large family of those with a small name."""
    names = sorted(family.names, key=lambda name: (_SMALL.search(name) is None, len(name), name))
    return fewest_parameters(family.library, names[:_TRIED])


def inner_layer(model: nn.Module, image: Tensor, named: Sequence[str]) -> str | None:
    """The middle one of all modules that return a grid once, in the order in which they run."""
    calls: dict[str, int] = {}
    size = (image.shape[2], image.shape[3])

    def hook_for(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if grid_of(model, output, size) is not None and not any(value is image for value in inputs):
                calls[path] = calls.get(path, 0) + 1

        return hook

    handles = [module.register_forward_hook(hook_for(path)) for path, module in model.named_modules() if path]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    found = [path for path, count in calls.items() if count == 1 and path not in named]
    return found[len(found) // 2] if found else None


def check(model: nn.Module, layer: str, image: Tensor) -> dict[str, Any]:
    """Compares the methods at one layer with the oracle; what is found, for a line of the results."""
    size = (image.shape[2], image.shape[3])
    try:
        split = split_network(model, layer, size)
        found = attributions(split, image)
    except CamError as error:
        return {"path": layer, "reason": f"refused: {error}"}
    oracle = Oracle(model, layer, image)
    questioned = {name: found[name][0] for name in METHOD_NAMES}
    flat = float((questioned["shapleycam"] - questioned["gradcam"]).abs().max() / questioned["gradcam"].abs().max())
    head = "hooks" if isinstance(split, HookSplit) else "graph"
    result: dict[str, Any] = {"path": layer, "head": head, "grid": list(oracle.activations.shape[2:]), "second": flat}
    errors, reason = by_autograd(oracle, questioned)
    if reason is None and is_equal(errors, TOLERANCES):
        return result | {"oracle": "autograd", "errors": errors}
    differences = by_differences(oracle, questioned)
    if is_equal(differences, dict.fromkeys(METHOD_NAMES, TOLERANCE_OF_DIFFERENCES)):
        return result | {"oracle": "differences", "errors": differences, "by_autograd": errors, "because": reason}
    why = "not equal" + (f" ({reason})" if reason else "")
    return result | {"oracle": "autograd", "errors": errors, "by_differences": differences, "reason": why}


def attributions(split: SplitNetwork, image: Tensor) -> dict[str, Tensor]:
    """(1, height, width) for each method, of the predicted class."""
    questions = [Question(0, METHODS[name], UTILITIES["rest"]) for name in METHOD_NAMES]
    explanations = explain(split, image, questions, metrics=False).explanations
    return {name: found.attribution[None] for name, found in zip(METHOD_NAMES, explanations, strict=True)}


def by_autograd(oracle: Oracle, found: Mapping[str, Tensor]) -> tuple[dict[str, float], str | None]:
    """The relative error of each method, at the best step; and why autograd is no oracle here, else None."""
    try:
        with torch.no_grad():
            again = oracle.utility(oracle.activations)
        if not torch.allclose(again, oracle.value, rtol=1e-9, atol=1e-9):
            return {}, f"with its own output put back the utility changes by {float((again - oracle.value).abs()):.0e}"
        gradient = oracle.gradient(oracle.activations)
        best: dict[str, float] = {}
        for step in STEPS:
            expected = oracle.attributions(step, gradient)
            for name in METHOD_NAMES:
                best[name] = min(best.get(name, torch.inf), _error(found[name], expected[name], expected["hirescam"]))
            if best["shapleycam"] <= _FAIR:
                break
    except RuntimeError as error:
        return {}, f"autograd: {str(error).splitlines()[0][:160]}"
    return best, None


def by_differences(oracle: Oracle, found: Mapping[str, Tensor]) -> dict[str, float]:
    """The relative error of each method, at a few players."""
    height, width = oracle.activations.shape[2:]
    chosen = torch.randperm(height * width, generator=torch.Generator().manual_seed(0))[:_PLAYERS].tolist()
    answers = [oracle.attribution_at(player // width, player % width) for player in chosen]
    expected = {name: torch.tensor([each[name] for each in answers], dtype=torch.float64) for name in METHOD_NAMES}
    return {name: _error(found[name].flatten()[chosen], expected[name], expected["hirescam"]) for name in METHOD_NAMES}


def _error(found: Tensor, expected: Tensor, hirescam: Tensor) -> float:
    """The largest difference, relative to the largest entry.

    What is nothing beside gradient times activation counts as zero: a softmax after the layer makes the mean gradient
    exactly zero, and what is left of it is rounding.
    """
    scale = expected.abs().max() + 1e-2 * hirescam.abs().max()
    return float((found - expected).abs().max() / scale.clamp_min(1e-12))


def is_equal(errors: Mapping[str, float], tolerances: Mapping[str, float]) -> bool:
    """Whether every method is as near to the oracle as it must be."""
    return len(errors) == len(tolerances) and all(errors[name] <= tolerances[name] for name in tolerances)


def sweep(family: Family) -> dict[str, Any]:
    """Checks one network; whatever goes wrong is the reason of its line."""
    name, parameters = smallest(family)
    line: dict[str, Any] = {"family": str(family), "network": name, "parameters": parameters, "checks": []}
    if parameters > _MOST_PARAMETERS:
        return line | {"reason": f"not tried: {parameters / 1e6:.0f} million parameters"}
    try:
        network = load(family.library, name)
        layers = dict(network.layers)
        model, size = network.model.double(), network.preprocessing.input_size
        line |= {"size": size[0], "layers": layers}
        image = structured_images(1, size, torch.Generator().manual_seed(1)).double()
        inner = inner_layer(model, image, list(layers.values()))
        paths = layers | ({"inner": inner} if inner else {})
        for layer, path in paths.items():
            line["checks"].append({"layer": layer} | check(model, path, image))
    except Exception as error:  # any of two large libraries: the others are still to be seen
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return line | {"reason": f"{type(error).__name__}: {str(error)[:300]} ({where})"}
    return line


def in_a_process(family: Family, timeout_s: float) -> dict[str, Any]:
    """Checks one network in a process of its own, which may crash or take too long."""
    started = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.families", "--child", str(family)]
    line: dict[str, Any] = {"family": str(family), "network": "", "checks": []}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        last = ended.stdout.strip().splitlines()[-1:] or [""]
        line = json.loads(last[0])
    except subprocess.TimeoutExpired:
        line |= {"reason": f"took longer than {timeout_s:.0f} s"}
    except json.JSONDecodeError:
        line |= {"reason": f"the process ended with {ended.returncode}: {ended.stderr.strip()[-200:]}"}
    return line | {"seconds": round(time.perf_counter() - started, 1)}


def rows(line: Mapping[str, Any]) -> Iterator[str]:
    """A network's rows of the table."""
    start = f"| {line['family']} | {line['network']} |"
    for each in line["checks"]:
        errors = ", ".join(f"{error:.0e}" for error in each.get("errors", {}).values())
        outcome = each.get("reason") or "equal"
        yield f"{start} {each['layer']} `{each['path']}` | {each.get('oracle', '')} | {errors} | {outcome} |"
    if line.get("reason"):
        yield f"{start} | | | {line['reason']} |"


def summary(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How many families are equal at every layer, and how far off the worst of these is."""
    checks = [(line, each) for line in lines for each in line["checks"]]
    wrong = {line["family"] for line, each in checks if each.get("reason")} | {
        line["family"] for line in lines if line.get("reason")
    }
    yield f"{len(lines)} families, {len(lines) - len(wrong)} equal at all {len(checks)} layers but those with a reason"
    for oracle in ("autograd", "differences"):
        equal = [each for _, each in checks if each.get("oracle") == oracle and not each.get("reason")]
        worst = {name: max((each["errors"][name] for each in equal), default=0.0) for name in METHOD_NAMES}
        yield f"{len(equal)} layers by {oracle}: " + ", ".join(f"{name} {error:.0e}" for name, error in worst.items())


def main() -> None:
    """Prints a row for each family and layer, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="modules or beginnings of names")
    parser.add_argument("--out", type=Path, help="JSON lines: what is in it is not tried again")
    parser.add_argument("--at-once", type=int, default=2, help="processes")
    parser.add_argument("--timeout", type=float, default=_TIMEOUT_S, help="seconds for a network")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    everything = families()
    if options.child:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # small operations lose more by waiting for threads than they gain
        print(json.dumps(sweep(next(family for family in everything if str(family) == options.child))))
        return
    done: dict[str, dict[str, Any]] = {}
    if options.out and options.out.exists():
        done = {line["family"]: line for line in map(json.loads, options.out.read_text().splitlines())}
    wanted = [f for f in everything if not options.only or {f.module, f.word, str(f)} & set(options.only)]
    print("| family | network | layer | oracle | errors | outcome |\n|---|---|---|---|---|---|", flush=True)
    lines: list[dict[str, Any]] = []

    def run(family: Family) -> dict[str, Any]:
        if str(family) in done:
            return done[str(family)]
        line = in_a_process(family, options.timeout)
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return line

    with ThreadPoolExecutor(options.at_once) as pool:
        for line in pool.map(run, wanted):
            lines.append(line)
            print("\n".join(rows(line)), flush=True)
    print("\n" + "\n".join(summary(lines)))


if __name__ == "__main__":
    main()

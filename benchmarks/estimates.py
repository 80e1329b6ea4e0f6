"""`python -m benchmarks.estimates`: what requests are estimated to take, and what they take; a table of RESULTS.md."""

import os
import sys
import time

from app.process import prepare_process

prepare_process()
if "--processor-time" in sys.argv:
    # For a machine that others use too: with a single thread, processor time is what an idle machine would take.
    os.environ["OMP_NUM_THREADS"] = "1"
    time.perf_counter = time.process_time

import argparse  # noqa: E402
import re  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from dataclasses import dataclass, field, replace  # noqa: E402
from functools import partial  # noqa: E402

import torch  # noqa: E402

from app.cam.cost import Costs, estimate_s  # noqa: E402
from app.cam.engine import explain, with_references  # noqa: E402
from app.cam.errors import CamError  # noqa: E402
from app.cam.heads import PooledLinearHead  # noqa: E402
from app.cam.methods import METHODS  # noqa: E402
from app.cam.questions import Question  # noqa: E402
from app.cam.split import SplitNetwork  # noqa: E402
from app.cam.timing import measure_costs  # noqa: E402
from app.cam.utilities import UTILITIES  # noqa: E402
from app.cam.views import Smooth  # noqa: E402
from app.cam.work import SamplingOptions  # noqa: E402
from benchmarks.measure import EMBEDDED, benchmark_images, fast_split, row, seconds, table  # noqa: E402
from benchmarks.suite import RESULTS  # noqa: E402

HEADING = "## Estimates of requests, and what they take"
LAYERS = {
    EMBEDDED: ("pre_gap", "last_conv", "blocks.4", "blocks.1"),
    "resnet50": ("pre_gap", "last_conv", "layer3"),
    "swin_t": ("pre_gap", "last_norm", "features.3"),
}
# Shorter ones are as long as the machine's other work.
SHORTEST_S = 0.05
DERIVATIVES = ("gradcam", "shapleycam")
GAMES = ("scorecam", "ablationcam", "liftcam", "aumann-shapley", "shapley-sampling")


@dataclass(frozen=True, slots=True)
class EstimateCase:
    """A request.

    Attributes:
        method: of all its questions.
        targets: how many.
        utilities: how many.
        sampling: of the methods that take one.
        smooth: its views.
        metrics: whether figures are wanted.
        reference: whether Shapley values are.
        layers: how often the layer is asked for.
    """

    method: str
    targets: int = 1
    utilities: int = 1
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    smooth: Smooth = "none"
    metrics: bool = False
    reference: bool = False
    layers: int = 1

    @property
    def questions(self) -> list[Question]:
        """What it asks."""
        utilities = list(UTILITIES.values())[: self.utilities]
        return [
            Question(0, METHODS[self.method], utility, target, 0, self.sampling, self.metrics, self.reference)
            for target in range(self.targets)
            for utility in utilities
        ]

    def __str__(self) -> str:
        parts = [f"`{self.method}`", f"{self.targets} x {self.utilities}"]
        if self.method == "shapley-sampling" or self.reference:
            parts.append(f"{self.sampling.permutations} permutations")
        if self.method == "aumann-shapley":
            parts.append(f"{self.sampling.nodes} nodes")
        parts += [self.smooth] if self.smooth != "none" else []
        parts += [word for word in ("metrics", "reference") if getattr(self, word)]
        return ", ".join([*parts, *([f"{self.layers} layers"] if self.layers > 1 else [])])


def cases() -> Iterator[EstimateCase]:
    """Every method with every parameter, from the cheapest to the dearest."""
    for method in (*DERIVATIVES, *GAMES, "fakecam"):
        for sampling in _sampling_options(method):
            one, many = EstimateCase(method, sampling=sampling), EstimateCase(method, 16, 4, sampling)
            yield from (one, many)
            yield from (replace(one, metrics=True), replace(one, smooth="flip-scale"), replace(one, layers=3))
            yield from (replace(many, metrics=True), replace(many, smooth="flip-scale"))
            yield replace(many, smooth="flip-scale", metrics=True)
    for targets, utilities in ((1, 1), (16, 4)):
        yield EstimateCase("hirescam", targets, utilities, reference=True)


def _sampling_options(method: str) -> tuple[SamplingOptions, ...]:
    if method == "shapley-sampling":
        return tuple(SamplingOptions(permutations=count) for count in (2, 256, 16384))
    return (SamplingOptions(nodes=8), SamplingOptions(nodes=64)) if method == "aumann-shapley" else (SamplingOptions(),)


def judged(name: str, layer: str, most_s: float) -> Iterator[tuple[EstimateCase, float, float]]:
    """Estimate and truth of all requests at a layer that are estimated to take no more than so long."""
    split = fast_split(name, layer)
    image = benchmark_images(1)
    costs = _costs(split)
    for case in cases():
        if METHODS[case.method].name == "cam" and not isinstance(split.structure, PooledLinearHead):
            continue
        splits = [split] * case.layers
        estimate = estimate_s(splits, [costs] * case.layers, with_references(case.questions)[0], case.smooth)
        if estimate > most_s:
            continue
        try:
            explain(splits, image, case.questions[:1], metrics=False)
            taken = [
                seconds(partial(explain, splits, image, case.questions, smooth=case.smooth))
                for _ in range(3 if estimate < 1 else 1)
            ]
        except CamError:  # no rule for an operation of this head
            continue
        yield case, estimate, statistics.median(taken)


def _costs(split: SplitNetwork) -> Costs:
    image = benchmark_images(1)
    explain(split, image, [Question(0, METHODS["shapleycam"], UTILITIES["rest"])])
    return measure_costs(split, image).least(measure_costs(split, image))


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates")
    parser.add_argument("--networks", default=",".join(LAYERS))
    parser.add_argument("--most", type=float, default=10.0, help="the time budget of a request in seconds")
    parser.add_argument("--processor-time", action="store_true", help="of one thread, for a machine that is shared")
    arguments = parser.parse_args()
    clock = "processor time" if arguments.processor_time else "wall-clock time"
    lines = [
        HEADING,
        "",
        f"`python -m benchmarks.estimates --most {arguments.most:g}`: every method with one target and utility and "
        "with 16 and 4, with all views, with figures, with references, at three layers, and with few and many "
        f"permutations or nodes, as far as that is estimated to take no more than {arguments.most:g} s. Estimate "
        f"over truth (smallest, median, largest) of the requests that take {1e3 * SHORTEST_S:g} ms or more, and the "
        f"two that are farthest off. CPU, threads: {torch.get_num_threads()}, {clock}.",
        "",
        *table("network", "layer", "requests", "estimate over truth", "most too low", "most too high"),
    ]
    for name in arguments.networks.split(","):
        for layer in LAYERS[name]:
            found = [(case, e, t) for case, e, t in judged(name, layer, arguments.most) if max(e, t) >= SHORTEST_S]
            for case, estimate, truth in found:
                print(f"{name} {layer} {case}: {estimate:.3f} s estimated, {truth:.3f} s, {estimate / truth:.2f}")
            ordered = sorted(found, key=lambda one: one[1] / one[2])
            ratios = [estimate / truth for _, estimate, truth in ordered]
            spread = f"{ratios[0]:.2f}, {statistics.median(ratios):.2f}, {ratios[-1]:.2f}"
            lines.append(row(name, f"`{layer}`", len(found), spread, _shown(ordered[0]), _shown(ordered[-1])))
            _write("\n".join([*lines, ""]))


def _shown(judgement: tuple[EstimateCase, float, float]) -> str:
    case, estimate, truth = judgement
    return f"{case}: {estimate:.2f} s for {truth:.2f} s"


def _write(text: str) -> None:
    """Puts the table into the page, in the place of the last one or at its end."""
    page = RESULTS.read_text()
    pattern = re.compile(re.escape(HEADING) + r"\n.*?(?=\n## |\Z)", re.DOTALL)
    RESULTS.write_text(pattern.sub(lambda _: text, page) if HEADING in page else f"{page.rstrip()}\n\n{text}")


if __name__ == "__main__":
    main()

"""`python -m benchmarks.fidelity`: how near methods are to the Shapley values; writes a table of docs/methods.md."""

import re
import statistics
from pathlib import Path

from app.cam.engine import explain
from app.cam.fidelity import Fidelity
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from app.cam.work import SamplingOptions
from benchmarks.measure import benchmark_network
from testing.photographs import PHOTOGRAPHS, photographs

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
MARKER = "<!-- fidelity table -->"
LAYERS = ("pre_gap", "last_conv")
# `cam` explains another utility than the rest. The textures at the end of the list show no object.
NAMES = [name for name in METHODS if name != "cam"]
PICTURES = PHOTOGRAPHS[:11]
# Of these the sum is meant to be U(A) - U(0); of the others only the shape means something.
IN_UNITS = {"shapleycam", "shapleycam-h", "gradcam", "hirescam", "xgradcam", "aumann-shapley", "shapley-sampling"}


def main() -> None:
    """Measures, prints and writes."""
    network = benchmark_network("tf_efficientnet_lite0")
    images = photographs(network.preprocessing, PICTURES)
    cells: dict[str, list[str]] = {name: [] for name in NAMES}
    for layer in LAYERS:
        split = split_network(network.model, network.layers[layer], network.preprocessing.input_size)
        for name in NAMES:
            questions = [
                Question(
                    number,
                    METHODS[name],
                    UTILITIES["rest"],
                    seed=number,
                    sampling=SamplingOptions(1024),
                    reference=True,
                )
                for number in range(len(images))
            ]
            found = [e.fidelity for e in explain(split, images, questions, metrics=False).explanations]
            cells[name] += _cells(name, [fidelity for fidelity in found if fidelity is not None])
            print(layer, name, *cells[name][-3:], flush=True)
    header = ["method", *(f"{layer}: {what}" for layer in LAYERS for what in ("correlation", "gap", "distance"))]
    rows = [header, ["---"] * len(header), *([f"`{name}`", *cells[name]] for name in NAMES)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(MARKER) + r".*?" + re.escape(MARKER), re.DOTALL)
    PAGE.write_text(pattern.sub(f"{MARKER}\n{table}\n{MARKER}", text), encoding="utf-8")


def _cells(name: str, found: list[Fidelity]) -> list[str]:
    """Medians over the photographs."""
    correlation = f"{statistics.median(f.pearson for f in found):.3f}"
    if name not in IN_UNITS:
        return [correlation, "", ""]
    gap = statistics.median(f.efficiency_gap for f in found)
    distance = statistics.median(f.relative_l2 for f in found)
    return [correlation, f"{100 * gap:.1f} %", f"{distance:.3f}"]


if __name__ == "__main__":
    main()

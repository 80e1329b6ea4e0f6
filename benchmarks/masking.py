"""One masking method on one image, here or in the `grad-cam` package, in a process of its own.

`python -m benchmarks.masking SIDE NETWORK LAYER METHOD REPEATS` prints, as JSON, its seconds, and resident memory in
MiB before it and at its peak.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytorch_grad_cam as peer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.utilities import UTILITIES
from benchmarks.measure import bare_forward, benchmark_images, benchmark_network, fast_split, seconds

PEERS = {"scorecam": peer.ScoreCAM, "ablationcam": peer.AblationCAM}
TARGET = 1


def main(side: str, name: str, layer: str, method: str, repeats: int) -> None:
    """Measures and prints."""
    network = benchmark_network(name)
    image = benchmark_images(1)
    forward = bare_forward(network.model, image)
    path = network.layers[layer]
    work: Callable[[], object]
    if side == "ours":
        split = fast_split(name, layer)
        question = [Question(0, METHODS[method], UTILITIES["rest"], TARGET)]

        def work() -> object:
            return explain(split, image, question, metrics=False)
    else:

        def work() -> object:
            with PEERS[method](network.model, [network.model.get_submodule(path)]) as cam:
                return cam(image, [ClassifierOutputReST(TARGET)])

    for _ in range(3):
        forward()
    before = _memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: loading a network has one of its own
    taken = [seconds(work) for _ in range(repeats)]
    print(json.dumps({"seconds": taken, "before_mib": before, "peak_mib": _memory_mib("VmHWM")}))


def _memory_mib(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    _, side, name, layer, method, repeats = sys.argv
    main(side, name, layer, method, int(repeats))

"""One masking method on one image, here or in the `grad-cam` package, in a process of its own.

`python -m benchmarks.masking SIDE NETWORK LAYER METHOD REPEATS` prints, as JSON, the ratios of its time over a bare
forward pass and the peak of resident memory in MiB beyond what the loaded network takes.
"""

import json
import resource
import sys
from collections.abc import Callable

import pytorch_grad_cam as peer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from benchmarks.measure import bare_forward, benchmark_images, benchmark_network, seconds

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
        split = split_network(network.model, path, (224, 224))
        question = [Question(0, METHODS[method], UTILITIES["rest"], TARGET)]

        def work() -> object:
            return explain(split, image, question, metrics=False)
    else:

        def work() -> object:
            with PEERS[method](network.model, [network.model.get_submodule(path)]) as cam:
                return cam(image, [ClassifierOutputReST(TARGET)])

    for _ in range(3):
        forward()
    before = _peak_mib()
    base = sorted(seconds(forward) for _ in range(9))[4]
    ratios = [seconds(work) / base for _ in range(repeats)]
    print(json.dumps({"ratios": ratios, "mib": _peak_mib() - before}))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(*sys.argv[1:5], repeats=int(sys.argv[5]))

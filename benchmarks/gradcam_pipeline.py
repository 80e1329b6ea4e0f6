"""The same work with the `grad-cam` package, in a child process: it keeps every ShapleyCAM graph it made.

`python -m benchmarks.gradcam_pipeline NETWORK LAYER METHOD BATCH METRICS REPEATS` prints the ratios of its time over
a bare forward pass of the same batch, measured in turn, as a JSON list.
"""

import json
import sys

import numpy as np
import pytorch_grad_cam as peer
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST
from torch import Tensor

from benchmarks.measure import bare_forward, benchmark_images, benchmark_network, seconds

METHODS = {"gradcam": peer.GradCAM, "shapleycam": peer.ShapleyCAM}


def main(name: str, layer: str, method: str, batch: int, metrics: bool, repeats: int) -> None:
    """Measures and prints."""
    network = benchmark_network(name)
    model = network.model.requires_grad_(True)
    images = benchmark_images(batch)
    with torch.inference_mode():
        targets = [ClassifierOutputReST(c) for c in model(images).argmax(dim=1).tolist()]
    module = model.get_submodule(network.layers[layer])

    def explain(x: Tensor) -> np.ndarray:
        with METHODS[method](model, [module]) as cam:
            return cam(x, targets)

    def work() -> None:
        maps = torch.from_numpy(explain(images))[:, None]
        if not metrics:
            return
        explained = images * maps
        with torch.inference_mode():
            torch.softmax(model(images), dim=1)
            torch.softmax(model(explained), dim=1)
            torch.softmax(model(images * (1 - maps)), dim=1)
        again = explain(explained)
        np.corrcoef(maps.numpy().reshape(batch, -1), again.reshape(batch, -1))

    forward = bare_forward(model, images)
    work()
    forward()
    print(json.dumps([seconds(work) / seconds(forward) for _ in range(repeats)]))


if __name__ == "__main__":
    main(*sys.argv[1:4], batch=int(sys.argv[4]), metrics=sys.argv[5] == "True", repeats=int(sys.argv[6]))

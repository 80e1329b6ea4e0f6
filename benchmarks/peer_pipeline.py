"""The same work with another package, in a child process: `grad-cam` keeps every ShapleyCAM graph that it made.

`python -m benchmarks.peer_pipeline PACKAGE NETWORK LAYER METHOD BATCH METRICS REPEATS` prints the ratios of its time
over a bare forward pass of the same batch, measured in turn, as a JSON list.
"""

import json
import sys
from collections.abc import Callable

import numpy as np
import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.measure import bare_forward, benchmark_images, benchmark_network, ratios

METHODS = {"gradcam": pytorch_grad_cam.GradCAM, "shapleycam": pytorch_grad_cam.ShapleyCAM}
Explain = Callable[[Tensor], Tensor]


def main(package: str, name: str, layer: str, method: str, batch: int, metrics: bool, repeats: int) -> None:
    """Measures and prints."""
    network = benchmark_network(name)
    model = network.model.requires_grad_(True)
    images = benchmark_images(batch)
    with torch.inference_mode():
        classes = model(images).argmax(dim=1).tolist()
    explain = (_of_grad_cam if package == "grad-cam" else _of_torchcam)(model, network.layers[layer], method, classes)

    def work() -> None:
        maps = explain(images)[:, None]
        if not metrics:
            return
        explained = images * maps
        with torch.inference_mode():
            torch.softmax(model(images), dim=1)
            torch.softmax(model(explained), dim=1)
            torch.softmax(model(images * (1 - maps)), dim=1)
        again = explain(explained)
        np.corrcoef(maps.cpu().numpy().reshape(batch, -1), again.cpu().numpy().reshape(batch, -1))

    print(json.dumps(ratios(work, bare_forward(model, images), repeats)))


def _of_grad_cam(model: torch.nn.Module, layer: str, method: str, classes: list[int]) -> Explain:
    targets = [ClassifierOutputReST(c) for c in classes]

    def explain(images: Tensor) -> Tensor:
        with METHODS[method](model, [model.get_submodule(layer)]) as cam:  # type: ignore[no-untyped-call]
            return torch.from_numpy(cam(images, targets)).to(images)

    return explain


def _of_torchcam(model: torch.nn.Module, layer: str, method: str, classes: list[int]) -> Explain:
    assert method == "gradcam"

    def explain(images: Tensor) -> Tensor:
        with torchcam.methods.GradCAM(model, layer) as extractor:
            scores = model(images)
            (maps,) = extractor(classes, scores)
        return interpolate(maps[:, None], images.shape[2:], mode="bilinear")[:, 0].detach()

    return explain


if __name__ == "__main__":
    _, package, name, layer, method, batch, metrics, repeats = sys.argv
    main(package, name, layer, method, int(batch), metrics == "True", int(repeats))

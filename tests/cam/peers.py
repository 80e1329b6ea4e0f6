"""Signed attributions of the `grad-cam` package, one image at a time.

To be run in a child process: the package leaks a whole graph for each ShapleyCAM.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_grad_cam as peer
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget
from torch import Tensor, nn

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from service_models import Network, load_network, resolve
from service_models.config import read_config

PEERS: dict[str, type[peer.GradCAM]] = {
    "gradcam": peer.GradCAM,
    "hirescam": peer.HiResCAM,
    "gradcam-e": peer.GradCAMElementWise,
    "layercam": peer.LayerCAM,
    "xgradcam": peer.XGradCAM,
    "gradcam++": peer.GradCAMPlusPlus,
    "shapleycam": peer.ShapleyCAM,
}
TARGETS: dict[str, Callable[[int], Callable[[Tensor], Tensor]]] = {
    "pre-softmax": ClassifierOutputTarget,
    "rest": ClassifierOutputReST,
}


def channels_last_to_first(tensor: Tensor) -> Tensor:
    """What the package wants of a Swin's activations."""
    return tensor.permute(0, 3, 1, 2)


@contextmanager
def as_the_peer_needs_it(model: nn.Module, *paths: str) -> Iterator[None]:
    """No ReLU in place (it would overwrite what the package captured), no fused attention (no HVP through it).

    The package differentiates by every parameter that wants it, second derivatives included: only those of the layers
    at these paths do where each has some, and all otherwise.
    """
    changed: list[tuple[nn.Module, str, Any]] = []
    for module in model.modules():
        for name in ("inplace", "fused_attn"):
            if getattr(module, name, False) is True:
                changed.append((module, name, True))
                setattr(module, name, False)
    layers = [model.get_submodule(path) for path in paths]
    # The classifier too: where nothing but it follows, the gradient is a constant of the activations, and the package
    # differentiates it all the same.
    classifier = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1:]
    for module in [*layers, *classifier] if all(list(layer.parameters()) for layer in layers) else [model]:
        module.requires_grad_(True)
    try:
        yield
    finally:
        model.requires_grad_(False)
        for module, name, value in changed:
            setattr(module, name, value)


def peer_attribution(network: Network, path: str, method: str, utility: str, image: Tensor, target: int) -> np.ndarray:
    """The package's map of one image before its ReLU and scaling, (grid_height, grid_width)."""
    found: list[np.ndarray] = []

    class Capturing(PEERS[method]):  # type: ignore[misc]
        def get_cam_image(self, *args: Any, **kwargs: Any) -> np.ndarray:
            if method == "shapleycam" and self.reshape_transform is not None:
                # The package transforms what it weighs with, but forgets what it weighs.
                weights = self.get_cam_weights(*args[:5])
                activations = self.reshape_transform(args[3]).detach().numpy()
                found.append((weights[:, :, None, None] * activations).sum(axis=1))
            else:
                found.append(super().get_cam_image(*args, **kwargs))
            return found[-1]

    is_swin = network.name.startswith("swin")
    with (
        as_the_peer_needs_it(network.model, path),
        Capturing(
            network.model,
            [network.model.get_submodule(path)],
            reshape_transform=channels_last_to_first if is_swin else None,
        ) as cam,
    ):
        cam(image[None], [TARGETS[utility](target)])
    return np.asarray(found[0][0])


def our_attribution(
    split: SplitNetwork, method: str, utility: str, image: Tensor, target: int
) -> tuple[np.ndarray, float | None]:
    """Ours of the same, and the norm of the Hessian-vector product."""
    question = Question(0, METHODS[method], UTILITIES[utility], target)
    (found,) = explain(split, image[None], [question], metrics=False).explanations
    return found.attribution.numpy(), found.hvp_norm


def main(job_path: str) -> None:
    """Compares every cell of a job in JSON; writes the relative differences (max norm) and HVP norms as JSON."""
    job = json.loads(Path(job_path).read_text())
    config = read_config(Path(job["config"])) if job["config"] else {}
    network = load_network(resolve(job["network"], config), torch.device("cpu"), None)
    images = torch.from_numpy(np.load(job["images"]))
    with torch.inference_mode():
        targets = network.model(images).argmax(dim=1).tolist()
    cells = []
    for layer, path in network.layers.items():
        split = split_network(network.model, path, network.preprocessing.input_size)
        for method in job["methods"]:
            for utility in job["utilities"]:
                for number, (image, target) in enumerate(zip(images, targets, strict=True)):
                    ours, norm = our_attribution(split, method, utility, image, target)
                    theirs = peer_attribution(network, path, method, utility, image, target)
                    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
                    cells.append([layer, method, utility, number, difference, norm])
    Path(job["result"]).write_text(json.dumps(cells))

"""A plain loop around the `grad-cam` package, with the six figures written as the paper's equations read.

`python -m tests.evaluation.naive JOB.json` reads a job and writes rows, and the time they took, as JSON.
"""

from app.process import tune_process

# As ours is, before PyTorch is loaded.
tune_process()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision.transforms import InterpolationMode, v2  # noqa: E402

from service_models import CATALOGUE, Network, load_network  # noqa: E402
from tests.cam.peers import PEERS, TARGETS, as_the_peer_needs_it  # noqa: E402


def heatmap(network: Network, path: str, method: str, utility: str, x: torch.Tensor, target: int) -> np.ndarray:
    """(height, width), in [0, 1]."""
    layer = network.model.get_submodule(path)
    with as_the_peer_needs_it(network.model, path), PEERS[method](network.model, [layer]) as cam:
        return np.asarray(cam(x[None], [TARGETS[utility](target)])[0], dtype=np.float64)


def score(network: Network, x: torch.Tensor, target: int) -> float:
    with torch.no_grad():
        return float(network.model(x[None].float()).double().softmax(dim=1)[0, target])


def row(
    network: Network,
    path: str,
    method: str,
    utility: str,
    x: torch.Tensor,
    first: tuple[int, float],
    size: tuple[int, int],
    boxes: list[list[int]] | None,
) -> dict[str, float | None]:
    target, y = first
    h = heatmap(network, path, method, utility, x, target)
    mask = torch.from_numpy(h).float()
    explanation_map = x * mask
    o, d = (score(network, image, target) for image in (explanation_map, x * (1 - mask)))
    again = heatmap(network, path, method, utility, explanation_map, target)
    coherency = 50 * (1 + float(np.corrcoef(h.ravel(), again.ravel())[0, 1]))
    complexity = 100 * float(h.mean())
    average_drop = 100 * max(0.0, y - o) / y
    return {
        "target_class": target,
        "average_drop": average_drop,
        "coherency": coherency,
        "complexity": complexity,
        "adcc": 3 / (1 / coherency + 1 / (100 - complexity) + 1 / (100 - average_drop)),
        "increase_in_confidence": 100.0 * (o > y),
        "average_drop_in_deletion": 100 * max(0.0, y - d) / y,
        **({} if boxes is None else localisation(h, network, size, boxes)),
    }


def localisation(
    h: np.ndarray, network: Network, size: tuple[int, int], boxes: list[list[int]]
) -> dict[str, float | None]:
    """Walks over the heatmap's positions and asks of each which pixel of the photograph it lies on."""
    view = network.preprocessing
    resized = [int(view.resize_size * side / min(size)) for side in size]
    left, top = (round((side - crop) / 2) for side, crop in zip(resized, view.input_size[::-1], strict=True))
    inside = {}
    for row, column in np.ndindex(*h.shape):
        x, y = (left + column + 0.5) * size[0] / resized[0], (top + row + 0.5) * size[1] / resized[1]
        # Pixel 1 reaches from 0 to 1.
        inside[row, column] = any(x0 - 1 < x < x1 and y0 - 1 < y < y1 for x0, y0, x1, y1 in boxes)
    if not any(inside.values()):
        return {"pointing_game": None, "energy_in_box": None}
    strongest = max(inside, key=lambda place: h[place])
    energy = sum(h[place] for place, is_inside in inside.items() if is_inside)
    return {"pointing_game": 100.0 * inside[strongest], "energy_in_box": float(100 * energy / h.sum())}


def rows_of(file: str, network: Network, transform: v2.Compose, job: dict[str, Any]) -> list[dict[str, object]]:
    with Image.open(file) as picture:
        x, size = transform(picture.convert("RGB")), picture.size
    boxes = job["boxes"].get(Path(file).stem, []) if "boxes" in job else None
    with torch.no_grad():
        target = int(network.model(x[None]).argmax())
    first = target, score(network, x, target)
    return [
        {
            "image": Path(file).name,
            "layer": layer,
            "method": method,
            **row(network, path, method, job["utility"], x, first, size, boxes),
        }
        for layer, path in job["layers"].items()
        for method in job["methods"]
    ]


def main(job_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    network = load_network(CATALOGUE[job["network"]], torch.device("cpu"), None)
    view = network.preprocessing
    transform = v2.Compose(
        [
            v2.Resize(view.resize_size, InterpolationMode(view.interpolation)),  # of a Pillow image
            v2.CenterCrop(list(view.input_size)),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(view.mean, view.std),
        ]
    )
    rows: list[dict[str, object]] = []
    # Twice, the first time to have everything loaded and warm.
    for files in (job["files"][:1], job["files"]):
        rows, started = [], time.perf_counter()
        for file in files:
            rows += rows_of(file, network, transform, job)
        seconds = time.perf_counter() - started
    Path(job["result"]).write_text(json.dumps({"rows": rows, "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1])

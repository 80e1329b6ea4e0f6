"""`python -m benchmarks.face FOLDER`: a network that others have published, with the entry that docs/networks.md has.

FOLDER is that of the package `what-the-face-classification`, as `pip download --no-deps` and `unzip` leave it. The
service answers ten pictures, and so do the package's own `transform` and network, as its `inference.py` calls them.
"""

import argparse
import importlib.util
import re
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torchvision import transforms

from benchmarks.measure import row, table
from testing.pictures import encoded, photograph
from testing.serving import environment, start, until_end

_DOCUMENTATION = Path(__file__).parents[1] / "docs" / "networks.md"
_CHANNELS = [[1, 28], [28, 56], [56, 112]]
_FACE = (170, 0, 290, 150)
_ENTRY = re.compile(r"^```toml\n(\[networks\.face\].*?)^```", re.DOTALL | re.MULTILINE)
_TIMEOUT_S = 60.0


def pictures() -> list[tuple[str, Image.Image]]:
    """Six grey faces of 25 x 25 px, which the network enlarges, and four pictures in colour."""
    skimage: Any = data  # without types
    faces = (np.clip(skimage.lfw_subset()[:6], 0, 1) * 255).round().astype(np.uint8)
    colour = [(name, photograph(name)) for name in ("astronaut", "chelsea", "coffee")]
    return [
        *((f"face {number}", Image.fromarray(face)) for number, face in enumerate(faces, 1)),
        ("the astronaut's face", photograph("astronaut").crop(_FACE)),
        *colour,
    ]


def own_answers(folder: Path, images: Sequence[Image.Image]) -> Tensor:
    """The probabilities that the package's own code gives, (pictures, labels)."""
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net: nn.Module = module.SimpleConvolutionalNetwork(3, _CHANNELS, [3, 3, 3], [0, 0, 0], 304, 1792)
    net.load_state_dict(torch.load(folder / "active_model.pth", map_location="cpu", weights_only=True))
    net.eval()
    own: Any = transforms  # without types
    transform = own.Compose([own.Resize(48), own.CenterCrop(48), own.Grayscale(), own.ToTensor()])
    with torch.no_grad():
        return torch.cat([net(transform(image).float()).softmax(1) for image in images])


def answers(folder: Path, images: Sequence[Image.Image]) -> Tensor:
    """The probabilities that the service gives, (pictures, labels)."""
    (entry,) = _ENTRY.findall(_DOCUMENTATION.read_text())
    labels: list[str] = tomllib.loads(entry)["networks"]["face"]["labels"]
    with tempfile.TemporaryDirectory() as made:
        beside = Path(made)
        # Paths in an entry are relative to its file, and a package's folder may be read-only.
        for name in ("model.py", "active_model.pth"):
            (beside / name).symlink_to((folder / name).absolute())
        (beside / "networks.toml").write_text(entry)
        log = beside / "log.txt"
        env = environment(models="face", config=beside / "networks.toml")
        with until_end(start(env, log), log) as service:
            service.wait_until_ready()
            with httpx.Client(base_url=service.url, timeout=_TIMEOUT_S) as client:
                return torch.tensor([_ask(client, image, labels) for image in images])


def _ask(client: httpx.Client, image: Image.Image, labels: Sequence[str]) -> list[float]:
    reply = client.post(
        "/v1/predict",
        params={"top_k": len(labels)},
        content=encoded(image, "PNG"),
        headers={"content-type": "image/png"},
    )
    found = {one["label"]: one["probability"] for one in reply.raise_for_status().json()["predictions"]}
    return [found[label] for label in labels]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    named = pictures()
    images = [image for _, image in named]
    theirs, ours = own_answers(folder, images), answers(folder, images)
    print("\n".join(table("picture", "highest probability of its own code", "largest difference")))
    for (name, _), one, other in zip(named, theirs, ours, strict=True):
        row(name, f"{float(one.max()):.3f}", f"{float((one - other).abs().max()):.1e}")


if __name__ == "__main__":
    main()

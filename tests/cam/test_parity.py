"""Parity with the `grad-cam` package, on photographs and on every network of the paper."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from app.imaging.tensors import normalise
from app.imaging.view import render_view
from service_models import CATALOGUE, Preprocessing, resolve
from service_models.config import read_config
from service_models.preprocessing import library_preprocessing
from tests.cam import peers
from tests.forking import FORKING

EMBEDDED = "tf_efficientnet_lite0"
METHODS = ["gradcam", "hirescam", "gradcam-e", "layercam", "xgradcam", "gradcam++", "shapleycam"]
FAMILIES = ["gradcam", "hirescam", "shapleycam"]


class ParityCase(NamedTuple):
    layer: str
    method: str
    utility: str
    image: int
    difference: float
    hvp_norm: float | None


def photographs(names: list[str], preprocessing: Preprocessing) -> torch.Tensor:
    views = [render_view(Image.fromarray(getattr(data, name)()), preprocessing) for name in names]
    return normalise(torch.from_numpy(np.stack(views)), preprocessing, "cpu")


def compare(
    folder: Path, network: str, images: torch.Tensor, methods: list[str], utilities: list[str], config: str = ""
) -> list[ParityCase]:
    """Runs the comparison in a child process: the package keeps every ShapleyCAM graph it made."""
    job = folder / "job.json"
    np.save(folder / "images.npy", images.numpy())
    content = {
        "network": network,
        "config": config,
        "images": str(folder / "images.npy"),
        "methods": methods,
        "utilities": utilities,
        "result": str(folder / "result.json"),
    }
    job.write_text(json.dumps(content))
    process = FORKING.Process(target=peers.main, args=(str(job),))
    process.start()
    process.join()
    assert process.exitcode == 0
    return [ParityCase(*cell) for cell in json.loads((folder / "result.json").read_text())]


@pytest.fixture(scope="module")
def embedded_cells(tmp_path_factory: pytest.TempPathFactory) -> list[ParityCase]:
    preprocessing = library_preprocessing(CATALOGUE[EMBEDDED])
    images = photographs(["chelsea", "coffee", "rocket"], preprocessing)
    return compare(tmp_path_factory.mktemp("embedded"), EMBEDDED, images, METHODS, ["pre-softmax", "rest"])


@pytest.mark.parametrize("layer", ["pre_gap", "last_conv"])
@pytest.mark.parametrize("method", METHODS)
def test_attributions_of_photographs_equal_the_peers(embedded_cells: list[ParityCase], method: str, layer: str) -> None:
    cells = [cell for cell in embedded_cells if cell.method == method and cell.layer == layer]
    assert len(cells) == 3 * 2
    # XGrad-CAM divides by channel sums that are nearly zero before batch norm.
    tolerance = 5e-2 if (method, layer) == ("xgradcam", "last_conv") else 1e-4
    for cell in cells:
        assert cell.difference <= tolerance, cell


@pytest.mark.parametrize("network", [name for name in CATALOGUE if name != EMBEDDED])
def test_every_network_of_the_paper_equals_the_peer_at_both_layers(network: str, tmp_path: Path) -> None:
    config = tmp_path / "networks.toml"
    config.write_text(
        f'[networks.{network}]\nweights = "random"\npreprocessing = {{ input_size = [96, 160], resize_size = 160 }}\n'
    )
    preprocessing = resolve(network, read_config(config)).preprocessing
    assert preprocessing is not None
    assert preprocessing.input_size == (96, 160)
    cells = compare(tmp_path, network, photographs(["chelsea"], preprocessing), FAMILIES, ["rest"], str(config))
    assert {cell.layer for cell in cells} == set(CATALOGUE[network].layers or {})
    assert len(cells) == 2 * len(FAMILIES)
    for cell in cells:
        assert cell.difference <= 1e-4, cell
        if cell.method == "shapleycam":
            assert cell.hvp_norm is not None
            assert cell.hvp_norm > 1e-3, cell

"""The paper's own figures: Tables 1 to 5 of "CAMs as Shapley Value-based Explainers" (Cai, arXiv 2501.06261).

ImageNet validation set, 50,000 images, predicted label as target; carried as facts, in `published.csv`.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from app.evaluation.rows import METRICS

# The paper's names of the networks.
NETWORKS = {
    "ResNet-18": "resnet18",
    "ResNet-50": "resnet50",
    "ResNet-101": "resnet101",
    "ResNet-152": "resnet152",
    "ResNeXt-50": "resnext50_32x4d",
    "MobileNet-V2": "mobilenet_v2",
    "VGG-16": "vgg16",
    "EfficientNet-B0": "efficientnet_b0",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "Swin-S": "swin_small_patch4_window7_224",
    "Swin-B": "swin_base_patch4_window7_224",
    "Swin-L": "swin_large_patch4_window7_224",
}

VGG_NOTE = (
    "VGG-16 at last_conv, as published: ShapleyCAM (ADCC 76.20) and GradCAM (43.60) were given different activations. "
    "An in-place ReLU overwrote what had been captured for one of the two, so that post-ReLU stands against pre-ReLU. "
    "Here both methods see what the convolution computed, and that gap is not to be expected."
)


@dataclass(frozen=True, slots=True)
class Published:
    """A row of the paper's tables.

    Attributes:
        table: its number.
        network: our name of it.
        layer: `pre_gap`, `last_conv` or `last_norm`.
        method: our name of it.
        utility: the utility function.
        top1: the network's accuracy in percent, as the paper gives it.
        figures: the six, by the names of our columns.
    """

    table: int
    network: str
    layer: str
    method: str
    utility: str
    top1: float
    figures: Mapping[str, float]


@cache
def published() -> tuple[Published, ...]:
    """All 203 rows, in the paper's order."""
    with files("app.evaluation").joinpath("published.csv").open(encoding="utf-8") as file:
        return tuple(
            Published(
                int(row["table"]),
                NETWORKS[row["network"]],
                row["layer"],
                row["method"].lower(),
                row["utility"],
                float(row["top1_percent"]),
                {name: float(row[name]) for name in METRICS if name in row},
            )
            for row in csv.DictReader(file)
        )


@dataclass(frozen=True, slots=True)
class Preset:
    """What one of the paper's tables is about.

    Attributes:
        networks: our names.
        layers: as the paper names them.
        methods: our names.
        utilities: the utility functions.
    """

    networks: tuple[str, ...]
    layers: tuple[str, ...]
    methods: tuple[str, ...]
    utilities: tuple[str, ...]


def presets() -> dict[str, Preset]:
    """`table1` to `table5`: all networks, layers, methods and utilities that the table names."""
    found = {}
    for table in sorted({row.table for row in published()}):
        rows = [row for row in published() if row.table == table]
        found[f"table{table}"] = Preset(
            *(
                tuple(dict.fromkeys(getattr(row, name) for row in rows))
                for name in ("network", "layer", "method", "utility")
            )
        )
    return found

"""`python -m benchmarks.projection`: what the paper's tables cost over 50,000 images, computed and not measured.

Operations of a forward pass of each of the twelve networks, counted by PyTorch, times the passes that ten methods with
all figures need at all layers that the network names.
"""

import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from app.evaluation.plan import PAPER_METHODS
from app.evaluation.published import NETWORKS
from benchmarks.measure import row, table
from service_models import CATALOGUE, NetworkSpec

IMAGES = 50_000
# What a GPU sustains, from a tenth to a half of the peak of current ones.
TERA_A_SECOND = (10, 20, 40)


def main() -> None:
    """Prints a table."""
    total = 0.0
    print("\n".join(table("network", "GFLOP a pass", "passes an image", "PFLOP")))
    for name in NETWORKS.values():
        spec = CATALOGUE[name]
        passes = 1 + 2 * len(PAPER_METHODS) * len(spec.layers or {})
        giga = _giga_operations(spec)
        total += passes * giga * IMAGES
        row(name, f"{giga:.1f}", passes, f"{passes * giga * IMAGES / 1e6:.1f}")
    hours = ", ".join(f"{total / 1e3 / tera / 3600:.1f} h at {tera} TFLOP/s" for tera in TERA_A_SECOND)
    print(f"together {total / 1e6:.0f} PFLOP: {hours}")


def _giga_operations(spec: NetworkSpec) -> float:
    of_library = torchvision.models.get_model if spec.library == "torchvision" else timm.create_model
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        of_library(spec.architecture).eval()(torch.empty(1, 3, 224, 224))
    return float(counter.get_total_flops()) / 1e9


if __name__ == "__main__":
    main()

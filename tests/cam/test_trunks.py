"""A trunk gives the same activations and carry whatever engine runs it, for any batch size."""

import multiprocessing
import resource
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from app.cam.split import GraphSplit
from app.cam.splitting import split_network
from app.cam.trunks import build_trunk, folded
from app.runtime.devices import is_out_of_memory
from service_models import calibrate_random_weights
from service_models.calibration import structured_images

SIZE = (64, 64)
SWIN = {"img_size": SIZE, "embed_dim": 16, "depths": (1, 1, 1, 2), "num_heads": (1, 2, 4, 8)}
NETWORKS = {
    "resnet, with a skip connection to carry": (lambda: torchvision.models.resnet18(num_classes=10), "layer4.1.conv2"),
    "efficientnet": (lambda: timm.create_model("test_efficientnet", num_classes=10), "conv_head"),
    "swin, whose windows depend on the batch size": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **SWIN),
        "layers.3.blocks.1.norm1",
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def split(request: pytest.FixtureRequest) -> GraphSplit:
    build, layer = NETWORKS[request.param]
    model: nn.Module = calibrate_random_weights(build(), 0, SIZE).requires_grad_(False)
    split = split_network(model, layer, SIZE)
    assert isinstance(split, GraphSplit)
    return split


def images(count: int, seed: int = 1) -> Tensor:
    return structured_images(count, SIZE, torch.Generator().manual_seed(seed))


def check(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 1e-4) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()))


def short_of_memory() -> None:
    """In a process of its own, whose address space is held at what it has while a large batch comes in."""
    split = split_network(
        calibrate_random_weights(torchvision.models.resnet18(num_classes=10), 0, SIZE), "layer4.1.conv2", SIZE
    )
    assert isinstance(split, GraphSplit)
    trunk, large, known = build_trunk(split.graph, "openvino", images(2)), images(2000), {}
    with torch.no_grad():
        for count in (2, 3):
            known[count] = split.graph(images(count))
            check(trunk(images(count)), known[count])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**24, limits[1]))
    with pytest.raises(Exception, match="alloc") as failed:
        trunk(large)
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert is_out_of_memory(failed.value)
    for count in (3, 2):
        check(trunk(images(count)), known[count])


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_openvino_is_right_again_after_a_batch_that_did_not_fit_the_memory() -> None:
    process = multiprocessing.get_context("spawn").Process(target=short_of_memory)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_openvino_runs_the_trunk_for_any_batch_size(split: GraphSplit, count: int) -> None:
    trunk = build_trunk(split.graph, "openvino", images(2))
    with torch.no_grad():
        check(trunk(images(count)), split.graph(images(count)))
        strided = images(count).flip(3).transpose(2, 3)
        check(trunk(strided), split.graph(strided))


def test_what_a_trunk_returned_stays_when_it_runs_again(split: GraphSplit) -> None:
    """A long explanation holds its state while short ones pass through the same trunk."""
    trunk = build_trunk(split.graph, "openvino", images(2))
    first = trunk(images(2, seed=1))
    kept = [output.clone() for output in first]
    trunk(images(2, seed=2))
    assert all(torch.equal(one, other) for one, other in zip(first, kept, strict=True))


def test_folding_leaves_the_network_as_it_is_and_gives_the_same(split: GraphSplit) -> None:
    before = {name: (value.clone(), value.stride()) for name, value in split.graph.state_dict().items()}
    trunk = folded(split.graph)
    with torch.no_grad():
        check(trunk(images(3)), split.graph(images(3)))
    for name, value in split.graph.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.stride() == before[name][1]


def test_batch_norms_after_convolutions_are_folded() -> None:
    model = calibrate_random_weights(torchvision.models.resnet18(num_classes=10), 0, SIZE).requires_grad_(False)
    split = split_network(model, "layer4", SIZE)
    assert isinstance(split, GraphSplit)

    def norms(graph: nn.Module) -> int:
        return sum("batch_norm" in str(node.target) or "bn" in str(node.target) for node in graph.graph.nodes)  # type: ignore[union-attr]

    assert norms(split.graph) > 10
    assert norms(folded(split.graph)) == 0


def test_bfloat16_is_only_inside_the_trunk(split: GraphSplit) -> None:
    trunk = build_trunk(split.graph, "eager", images(2), "bfloat16")
    with torch.no_grad():
        found, expected = trunk(images(3)), split.graph(images(3))
    check(found, expected, tolerance=0.1)
    assert not all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_openvino_has_no_way_to_report_its_use(split: GraphSplit) -> None:
    build_trunk(split.graph, "openvino", images(2))
    assert sys.modules["openvino_telemetry"] is None
    locks = {path.name: path.read_text() for path in Path(__file__).parents[2].glob("requirements*.lock")}
    assert all("openvino==" in locks[name] for name in ("requirements.lock", "requirements-cpu.lock"))
    assert not any("openvino-telemetry" in lock for lock in locks.values())

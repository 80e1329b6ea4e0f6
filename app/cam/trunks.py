"""Runs the trunk of a split network, which carries no autograd, by whatever runs it fastest."""

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

Images = Float[Tensor, "batch colour height width"]
Trunk = Callable[[Images], tuple[Tensor, ...]]
"""Maps images to the target layer's output and the carry; called without autograd, by one thread."""

Engine = Literal["eager", "compile", "openvino", "cudagraphs"]
Precision = Literal["float32", "tf32", "bfloat16"]

# Batches are padded to these sizes, each of which is recorded once.
_RECORDED_SIZES = (1, 2, 4, 8, 16, 32, 64)


def build_trunk(graph: nn.Module, engine: Engine, images: Images, precision: Precision = "float32") -> Trunk:
    """Builds a trunk that runs on an engine, for any batch size.

    Args:
        graph: the eager trunk, frozen and in eval mode.
        engine: "eager"; "compile", TorchInductor with frozen weights; "openvino", on the CPU; "cudagraphs", on CUDA:
            batch norms folded, channels last, all kernels launched as one.
        images: an example of two or more, on the network's device.
        precision: of what happens inside; what comes out is float32.

    Raises:
        Exception: whatever the engine raises about a network that it cannot run.
    """
    match engine:
        case "openvino":
            return _openvino(graph, images, precision)
        case "compile":
            options: dict[str, Any] = {"freezing": True}
            return cast(Trunk, torch.compile(_in_precision(graph, precision), dynamic=True, options=options))
        case "cudagraphs":
            return _RecordedTrunk(_in_precision(folded(graph), precision))
        case "eager":
            return _in_precision(graph, precision)


def folded(graph: nn.Module) -> nn.Module:
    """A copy with batch norms folded into the convolutions before them, in the memory format that these like best."""
    return fuse(cast(fx.GraphModule, graph)).to(memory_format=torch.channels_last)


def _in_precision(graph: nn.Module, precision: Precision) -> Trunk:
    if precision != "bfloat16":
        return graph

    def run(images: Images) -> tuple[Tensor, ...]:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            outputs = graph(images)
        return tuple(output.float() for output in outputs)

    return run


def _openvino(graph: nn.Module, images: Images, precision: Precision) -> Trunk:
    # The converter reports its use to the outside where this package is installed, and does without where it is not.
    sys.modules["openvino_telemetry"] = cast(Any, None)
    openvino: Any = import_module("openvino")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter traces in a way that PyTorch calls outdated
        any_batch = openvino.PartialShape([-1, *images.shape[1:]])
        # The converter's own trace runs everything again to check itself; `accelerate` checks what counts.
        traced = torch.jit.trace(graph, images, check_trace=False)
        model = openvino.convert_model(traced, input=[any_batch])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # The processors are shared with the head, and with whatever else runs on the machine.
        "ENABLE_CPU_PINNING": False,
    }
    return _OpenVinoTrunk(lambda: openvino.Core().compile_model(model, "CPU", settings).create_infer_request())


class _OpenVinoTrunk:
    """Infers with a compiled network; after a failure, with one compiled anew.

    Where memory was short, the failed one can answer the next batch with what it had computed before.
    """

    def __init__(self, compiled: Callable[[], Any]) -> None:
        self._compiled = compiled
        self._request = compiled()

    def __call__(self, images: Images) -> tuple[Tensor, ...]:
        request, self._request = self._request or self._compiled(), None
        # Outputs are copies: the request writes its own memory again with the next batch.
        outputs = request.infer([images.contiguous().numpy()], share_inputs=True, share_outputs=False)
        self._request = request
        return tuple(torch.from_numpy(output) for output in outputs.values())


class _RecordedTrunk:
    """Replays CUDA graphs; a batch between the recorded sizes is padded, a larger one runs as it is."""

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk
        self._recordings: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, ...]]] = {}

    def __call__(self, images: Images) -> tuple[Tensor, ...]:
        count = len(images)
        size = next((size for size in _RECORDED_SIZES if size >= count), None)
        if size is None:
            return self._trunk(images.contiguous(memory_format=torch.channels_last))
        if size not in self._recordings:
            self._recordings[size] = self._record(images.new_zeros(size, *images.shape[1:]))
        graph, inputs, outputs = self._recordings[size]
        inputs[:count].copy_(images, non_blocking=True)
        graph.replay()
        # Copies: the next replay writes the same memory. A carry may have several rows for each image.
        return tuple(output[: len(output) // size * count].clone() for output in outputs)

    def _record(self, images: Images) -> tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, ...]]:
        inputs = images.contiguous(memory_format=torch.channels_last)
        stream = torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(stream):  # libraries choose their kernels on the first runs, which cannot be recorded
            for _ in range(3):
                self._trunk(inputs)
        torch.cuda.current_stream(images.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(images.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self._trunk(inputs)
        return graph, inputs, outputs

"""`python -m benchmarks.evaluation [IMAGES]`: what a table costs, in forward passes and beside `grad-cam`.

The embedded network, both layers, metrics on, photographs of the scikit-image package read from files.
"""

from app.process import prepare_process

# As `python -m app evaluate` prepares its own process, before PyTorch is loaded.
prepare_process()

import json  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from app.cam.methods import METHODS  # noqa: E402
from app.cam.state import SplitState  # noqa: E402
from app.evaluation.dataset import read_dataset  # noqa: E402
from app.evaluation.evaluator import Evaluator  # noqa: E402
from app.evaluation.plan import PAPER_METHODS, Plan  # noqa: E402
from app.evaluation.run import EvaluationRun, evaluate_shards  # noqa: E402
from app.settings import Settings, TrunkSetting  # noqa: E402
from benchmarks.measure import EMBEDDED, benchmark_images, shown  # noqa: E402
from testing.pictures import encoded, photograph  # noqa: E402

BATCH = 8
REPEATS = 5
# grad-cam has these; its process is given few images, since it is slow and keeps every ShapleyCAM graph.
OF_THE_PEER = ("gradcam", "hirescam", "gradcam-e", "layercam", "xgradcam", "gradcam++", "shapleycam")
PEER_IMAGES = 4


def main(images: int) -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(images):
            picture = photograph(("astronaut", "chelsea", "coffee", "rocket")[number % 4]).rotate(3 * number)
            (Path(folder) / f"{number:04d}.jpg").write_bytes(encoded(picture, "JPEG"))
        for trunk in ("eager", "openvino"):
            everything = _LatencyTable(Path(folder), ("cam", *PAPER_METHODS), "pre-softmax", trunk)
            necessary, made = everything.passes()
            print(
                f"eleven gradient methods, two layers: {necessary} passes an image are necessary, {made:.1f} are made"
            )
            seconds, ratios = everything.ratios()
            print(f"{trunk}: {1e3 * seconds:.0f} ms an image; in passes of a full batch on the same trunk")
            print(f"{shown(ratios)}, {statistics.median(ratios) / necessary:.2f} times the necessary")
        shared = _LatencyTable(Path(folder), OF_THE_PEER, "rest", "auto")
        ours = statistics.median(shared.seconds_an_image() for _ in range(REPEATS))
        theirs = _peer(Path(folder))
        print(f"the {len(OF_THE_PEER)} methods that grad-cam has, {1e3 * ours:.0f} ms an image; with grad-cam and the")
        print(f"metrics of the same maps {1e3 * theirs:.0f} ms: {theirs / ours:.1f} times faster")


class _LatencyTable:
    """A table of all images of a folder."""

    def __init__(self, folder: Path, methods: tuple[str, ...], utility: str, trunk: TrunkSetting) -> None:
        plan = Plan(methods=methods, utilities=(utility,))
        self._evaluation = EvaluationRun(
            Settings(device=("cpu",), trunk=trunk), read_dataset(folder), plan, BATCH, None, folder / "out"
        )
        self._evaluator: Evaluator = self._evaluation.evaluator(EMBEDDED)
        self.seconds_an_image()

    def seconds_an_image(self) -> float:
        """Time of the whole table over the number of images, reading included."""
        started = time.perf_counter()
        shards = range(len(self._evaluation.shards))
        for _ in evaluate_shards(self._evaluation, self._evaluator, shards):
            pass
        return (time.perf_counter() - started) / len(self._evaluation.dataset.items)

    def passes(self) -> tuple[int, float]:
        """How many passes through the network are necessary for an image, and how many are made."""
        rows = 0

        def count(trunk: Callable[[Tensor], SplitState], images: Tensor) -> SplitState:
            nonlocal rows
            rows += len(images)
            return trunk(images)

        splits = {layer: self._evaluator.split(layer) for layer in ("pre_gap", "last_conv")}
        for split in splits.values():
            split.trunk = partial(count, split.trunk)  # type: ignore[method-assign]
        self.seconds_an_image()
        for split in splits.values():
            del split.trunk
        # One of the image; of each explanation one of the map, which gives its score and its own heatmap, and one of
        # the anti-map.
        return 1 + 2 * len(self._evaluator.combinations), rows / len(self._evaluation.dataset.items)

    def ratios(self) -> tuple[float, list[float]]:
        """Seconds an image, and the time in units of one pass."""
        seconds, ratios = [], []
        for _ in range(REPEATS):
            seconds.append(self.seconds_an_image())
            ratios.append(seconds[-1] / self._pass_s())
        return statistics.median(seconds), ratios

    def _pass_s(self) -> float:
        """One image's share of a full batch, through the whole network, on the trunk that the evaluation runs."""
        images = benchmark_images(BATCH)
        split = self._evaluator.split("last_conv")
        times = []
        for _ in range(20):
            started = time.perf_counter()
            with torch.inference_mode():
                split.logits(images)
            times.append((time.perf_counter() - started) / BATCH)
        return statistics.median(times)


def _peer(folder: Path) -> float:
    """Seconds an image that `grad-cam` takes for the same methods, layers and figures."""
    result = folder / "peer.json"
    files = sorted(str(path) for path in folder.glob("*.jpg"))[:PEER_IMAGES]
    layers = {"pre_gap": "bn2", "last_conv": "conv_head"}
    job = {"network": EMBEDDED, "layers": layers, "methods": OF_THE_PEER, "utility": "rest", "files": files}
    (folder / "job.json").write_text(json.dumps(job | {"result": str(result)}))
    subprocess.run([sys.executable, "-m", "tests.evaluation.naive", str(folder / "job.json")], check=True)
    return float(json.loads(result.read_text())["seconds"]) / len(files)


if __name__ == "__main__":
    assert set(OF_THE_PEER) <= set(METHODS)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)

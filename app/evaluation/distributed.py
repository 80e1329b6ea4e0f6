"""The run on many machines: Ray Data, one job a network, its actors writing the same shards as a run on one machine.

All machines see the images and the results under the same paths: a file system that they share.
"""

import logging
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from app.cluster.joining import ClusterError, Interrupted, join_cluster
from app.evaluation.errors import EvaluationError
from app.evaluation.run import FAILURES, EvaluationRun, OnProgress, evaluate_shards
from app.evaluation.stopping import Stopped

_LOG = logging.getLogger(__name__)

# Actors reserve few of Ray's processors: with none left free, a cluster that lost a node stalled.
_ACTOR_CPUS = 0.5
# Shards of one task: several, so that images are read ahead across shards; few, so that all actors end together.
_SHARDS_AT_ONCE = 4
_TASKS_AN_ACTOR = 8
_LOOK_EVERY_S = 1.0

Batch = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]


@contextmanager
def joined_to_ray(address: str | None) -> Iterator[None]:
    """Joins a cluster and leaves it at the end, or starts one on this machine until the end.

    Args:
        address: host and port of a cluster that runs; None starts one.

    Raises:
        EvaluationError: Ray is not installed, or there is no such cluster.
    """
    try:
        join_cluster(address, with_logs=False)
    except ClusterError as error:
        raise EvaluationError(str(error)) from None
    except Interrupted:
        raise Stopped(signal.SIGTERM) from None
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()


def device_on_ray(names: Sequence[str]) -> str:
    """The device that the actors have.

    Args:
        names: what the settings ask for.

    Raises:
        EvaluationError: the cluster has none, or one of a machine's devices was named.
    """
    import ray

    if list(names) not in (["auto"], ["cpu"], ["cuda"]):
        raise EvaluationError("--device: with --engine ray takes auto, cpu or cuda: actors get their GPU from Ray")
    has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
    if names[0] == "cuda" and not has_gpus:
        raise EvaluationError("--device: the cluster has no GPU")
    return "cuda" if has_gpus and names[0] != "cpu" else "cpu"


def run_on_ray(
    evaluation: EvaluationRun, networks: Sequence[str], progress: OnProgress, *, stall_s: float
) -> dict[str, str]:
    """Evaluates networks one after the other on the cluster that was joined, each on all of its devices.

    Args:
        evaluation: what to do.
        networks: their names.
        progress: told of every shard.
        stall_s: longest time without a shard.

    Returns:
        For each network that could not be evaluated, why.

    Raises:
        EvaluationError: the cluster fails, or nothing happens any more.
    """
    failures = {}
    for name in networks:
        if not (missing := evaluation.missing(name)):
            continue
        try:
            for shard in _watched(_shards(evaluation, name, missing), stall_s, name):
                progress(0 if shard is None else evaluation.images_of([shard]))
        except _NetworkFailed as error:
            _LOG.error("%s", error)
            failures[name] = str(error)
    return failures


class _NetworkFailed(Exception):
    """The actors cannot load a network, or nothing of the plan has a meaning on it."""


class ShardActor:
    """Holds a network on a device of some machine, and makes shards of it."""

    def __init__(self, evaluation: EvaluationRun, network: str) -> None:
        self._evaluation = evaluation
        self._network = network
        self._warnings = _Warnings()
        # Ray creates an actor that raises here again and again, and reports the error as text only.
        self._failure = ""
        try:
            self._evaluator = evaluation.evaluator(network)
            evaluation.begin_network(self._evaluator)
        except FAILURES as error:
            self._failure = str(error)

    def __call__(self, batch: Batch) -> Batch:
        """Makes the shards of these numbers, but for those that another actor has made meanwhile.

        Returns:
            The numbers; for each the reason why it was not made, or nothing; and the warnings.
        """
        shards = batch["shard"].tolist()
        if not self._failure:
            try:
                self._make(shards)
            except FAILURES as error:
                self._failure = str(error)
        told = {"failure": self._failure, "warnings": "\n".join(self._warnings.take())}
        return {**batch, **{name: np.array([text] * len(shards)) for name, text in told.items()}}

    def _make(self, shards: Sequence[int]) -> None:
        results = self._evaluation.results()
        wanted = [shard for shard in shards if not results.has(self._network, shard)]
        for shard, rows in evaluate_shards(self._evaluation, self._evaluator, wanted):
            results.write(self._network, shard, rows)


class _Warnings(logging.Handler):
    """Collects the warnings of this process, for the one that has a terminal."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []
        logging.getLogger("app").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Collects a line."""
        self._lines.append(record.getMessage())

    def take(self) -> list[str]:
        """The warnings since the last call."""
        lines, self._lines = self._lines, []
        return lines


def _shards(evaluation: EvaluationRun, network: str, missing: Sequence[int]) -> Iterator[int]:
    """The numbers of the shards, as they are written."""
    import ray

    has_gpu = evaluation.settings.device == ("cuda",)
    processors = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    # One actor a GPU; without, one a machine, whose threads take all of its processors.
    places = int(ray.cluster_resources()["GPU"]) if has_gpu else sum(count >= _ACTOR_CPUS for count in processors)
    actors = max(1, min(len(missing), places))
    together = min(_SHARDS_AT_ONCE, max(1, len(missing) // (actors * _TASKS_AN_ACTOR)))
    numbers = ray.data.from_items(
        [{"shard": number} for number in missing], override_num_blocks=-(-len(missing) // together)
    )
    made = numbers.map_batches(
        ShardActor,
        fn_constructor_args=(evaluation, network),
        batch_size=None,
        # As many as there are places, from the start; when a machine is lost, actors without a place block nobody.
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=_ACTOR_CPUS,
        num_gpus=1 if has_gpu else 0,
    )
    told = set()
    for row in made.iter_rows():
        for warning in filter(None, row["warnings"].split("\n")):
            if warning not in told:
                told.add(warning)
                _LOG.warning("%s", warning)
        if row["failure"]:
            raise _NetworkFailed(row["failure"])
        yield row["shard"]


def _watched(shards: Iterator[int], stall_s: float, network: str) -> Iterator[int | None]:
    """Passes shards on, and None while none comes; gives up where that takes too long.

    Raises:
        EvaluationError: none came.
        _NetworkFailed: the network cannot be loaded.
    """
    arrived: queue.Queue[int | BaseException | None] = queue.Queue()

    def drain() -> None:
        try:
            for shard in shards:
                arrived.put(shard)
            arrived.put(None)
        except BaseException as error:  # any failure of the cluster is passed to the thread that waits
            arrived.put(error)

    threading.Thread(target=drain, name="ray-shards", daemon=True).start()
    last = time.monotonic()
    while time.monotonic() - last < stall_s:
        yield None
        with suppress(queue.Empty):
            found = arrived.get(timeout=min(_LOOK_EVERY_S, stall_s))
            last = time.monotonic()
            if found is None:
                return
            if isinstance(found, _NetworkFailed):
                raise found
            if isinstance(found, BaseException):
                raise EvaluationError(f"{network}: the cluster failed: {found}")
            yield found
    raise EvaluationError(
        f"{network}: the cluster has finished nothing for {stall_s:g} s; --resume goes on when it works again"
    )

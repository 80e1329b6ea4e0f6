"""The counters and timers of the service, for Prometheus; every label has a bounded set of values."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from app import __version__
from app.errors import ERRORS

# From a cached predict on a GPU to the time limit of a request.
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_TENTHS = tuple(tenth / 10 for tenth in range(1, 11))


class Meters:
    """The service's own registry and what it holds.

    Attributes:
        registry: what `/metrics` shows.
        requests: answered requests, whatever their status.
        keys: the same by the name of the API key.
        rejected: errors by their code.
        total: seconds from a request's first byte to its reply, of those that were answered with a result.
        stages: seconds of such a request in each stage, by the name of the stage.
        batch_size: jobs that shared a batch.
        batch_fill: the same as a share of what a full batch holds.
        halvings: times that a batch or a chunk was made smaller for want of memory.
        restarts: times that a device's worker died and was replaced.
    """

    def __init__(self) -> None:
        # The times when series began are of no use, and double the number of samples.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        build = Gauge("cam_build_info", "The version that runs.", ["version"], registry=registry)
        build.labels(__version__).set(1)
        self.requests = Counter(
            "cam_requests", "Requests by route template and status.", ["route", "http_method", "status"],
            registry=registry,
        )  # fmt: skip
        self.keys = Counter(
            "cam_key_requests", "Requests by the name of their API key.", ["key", "status"], registry=registry
        )
        self.rejected = Counter("cam_rejected", "Error replies by their code.", ["reason"], registry=registry)
        for error in ERRORS:
            self.rejected.labels(error.code)
        self.total = Histogram(
            "cam_total_seconds",
            "From a request's header to its finished reply, of explanations and predictions.",
            ["route", "model", "method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages = {
            name: Histogram(f"cam_{name}_seconds", text, ["model"], buckets=_SECONDS, registry=registry)
            for name, text in {
                "decode": "Reading the picture.",
                "queue": "Waiting for a decoder and for the device.",
                "compute": "On the device, with the batch that the request was in.",
                "render": "Drawing and encoding the reply.",
            }.items()
        }
        self.batch_size = Histogram(
            "cam_batch_size", "Requests that ran as one batch.", ["device"], buckets=_SIZES, registry=registry
        )
        self.batch_fill = Histogram(
            "cam_batch_fill_ratio",
            "The same as a share of what a full batch holds.",
            ["device"],
            buckets=_TENTHS,
            registry=registry,
        )
        self.halvings = Counter(
            "cam_out_of_memory_halvings",
            "Times that a batch or a chunk was made smaller for want of memory.",
            ["device"],
            registry=registry,
        )
        self.restarts = Counter(
            "cam_worker_restarts", "Times that a device's worker died and was replaced.", ["device"], registry=registry
        )

    def register_device(self, device: str) -> None:
        """Creates a device's counters at 0: for Prometheus a counter that first appears at 1 has not increased."""
        for counter in (self.halvings, self.restarts):
            counter.labels(device)

    def record_batch(self, device: str, size: int, max_size: int) -> None:
        """Notes a batch of requests that may be shared by as many as `max_size`."""
        self.batch_size.labels(device).observe(size)
        self.batch_fill.labels(device).observe(size / max_size)

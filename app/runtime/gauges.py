"""The present state of the service, for Prometheus."""

from collections.abc import Iterator

import torch
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from app.logs import dropped_lines
from app.runtime.runtime import Runtime


class Gauges(Collector):
    """Reads the state of the runtime when Prometheus asks."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def describe(self) -> list[Metric]:
        """Nothing: the metrics are known only when they are collected."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The state now."""
        runtime = self._runtime
        ready = runtime.is_loaded and not runtime.is_draining
        yield GaugeMetricFamily("cam_ready", "1 while all networks are loaded and it does not stop.", value=ready)
        yield GaugeMetricFamily("cam_in_flight", "Requests accepted and not yet answered.", value=runtime.in_flight)
        yield GaugeMetricFamily("cam_queue_limit", "CAM_QUEUE_SIZE.", value=runtime.settings.queue_size)
        yield self._networks()
        yield self._depths()
        yield self._held()
        yield GaugeMetricFamily(
            "cam_decoders_idle", "Image processes with nothing to do.", value=runtime.images.pool.idle
        )
        yield CounterMetricFamily(
            "cam_decoders_broken", "Pictures that broke the process that read them.", value=runtime.images.broken
        )
        yield CounterMetricFamily(
            "cam_log_lines_dropped", "Lines of the log that nobody read in time.", value=dropped_lines()
        )
        yield from self._device_memory()

    def _networks(self) -> Metric:
        family = GaugeMetricFamily("cam_model_info", "The loaded networks.", labels=["model", "device", "weights"])
        # Another thread may be loading one more.
        for name, served in list(self._runtime.networks.items()):
            family.add_metric([name, str(served.network.device), served.network.weights], 1)
        return family

    def _depths(self) -> Metric:
        family = GaugeMetricFamily("cam_queue_depth", "Jobs that wait for a device.", labels=["device"])
        for name, worker in list(self._runtime.workers.items()):
            family.add_metric([name], worker.depth)
        return family

    def _held(self) -> Metric:
        family = GaugeMetricFamily("cam_held_bytes", "Bytes that requests hold.", labels=["kind"])
        family.add_metric(["bodies"], self._runtime.bodies.bytes)
        family.add_metric(["pictures"], self._runtime.images.budget.held)
        return family

    def _device_memory(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("cam_device_memory_bytes", "Memory of a GPU.", labels=["device", "kind"])
        for name, worker in list(self._runtime.workers.items()):
            if worker.device.type == "cuda":
                free, total = torch.cuda.mem_get_info(worker.device)
                family.add_metric([name, "allocated"], torch.cuda.memory_allocated(worker.device))
                family.add_metric([name, "reserved"], torch.cuda.memory_reserved(worker.device))
                family.add_metric([name, "free"], free)
                family.add_metric([name, "total"], total)
        if family.samples:
            yield family

"""The server process, from its settings and its port to its last answer."""

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn

from app.cluster.joining import ClusterError, Interrupted, join_cluster
from app.connections import TimeLimitedProtocol, close_idle
from app.keys import KeysError
from app.listening import ListeningSocket, cannot_listen
from app.main import create_app
from app.process import stopping_signals
from app.runtime.memory import settle
from app.runtime.runtime import Runtime
from app.settings import Settings
from service_models import NetworkError, find_networks

_LOG = logging.getLogger("app")

# Balancers are given this long to see that the service is not ready any more, before nothing listens.
_NOTICE_S = 2.0


class DrainingServer(uvicorn.Server):
    """Drains before it stops: it listens on, answers what was accepted, and refuses the rest."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        host = self.config.host or "0.0.0.0"  # noqa: S104 - what an empty setting means
        # The port of the socket, not of the settings: 0 takes a free one.
        port = self.servers[0].sockets[0].getsockname()[1]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Has the sockets listen."""
        self._loop = asyncio.get_running_loop()
        for each in sockets or []:
            if isinstance(each, ListeningSocket):
                each.close_idle = partial(close_idle, self.server_state.connections)
        try:
            await super().startup(sockets)
        except OSError as error:  # another process has bound the same port, and listened first
            _LOG.error(cannot_listen(self.config.host, self.config.port, error))
            await self.lifespan.shutdown()
            self.should_exit = True
        else:
            _LOG.info("running on %s (Press CTRL+C to quit)", self.url)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Has all that tell the service to stop drain it; uvicorn knows fewer."""
        with super().capture_signals():
            before = {number: signal.signal(number, self.handle_exit) for number in stopping_signals()}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """The first signal drains, a second one stops at once."""
        if self._loop is None or self._runtime.is_draining:
            # Not uvicorn's own handler: the process would end by the signal instead of with an exit status.
            if self.should_exit and sig == signal.SIGINT:
                self.force_exit = True
            self.should_exit = True
        else:
            self._runtime.is_draining = True
            self._loop.call_soon_threadsafe(self._start_draining)

    def _start_draining(self) -> None:
        limit_s = self._runtime.settings.drain_s
        _LOG.info("stopping: answering what was accepted, for at most %g s", limit_s)
        # Whatever hangs then (a download, a driver) is left behind.
        last = threading.Timer(limit_s, _end, args=(limit_s,))
        last.daemon = True
        last.start()
        self._draining = asyncio.create_task(self._drain(min(_NOTICE_S, limit_s / 2)))

    async def _drain(self, notice_s: float) -> None:
        started = time.monotonic()
        await self._runtime.drain()
        if self._runtime.is_loaded:
            await asyncio.sleep(started + notice_s - time.monotonic())
        self.should_exit = True


def _end(limit_s: float) -> None:
    _LOG.warning("not everything was answered within %g s", limit_s)
    logging.shutdown()
    os._exit(0)


def serve_here(settings: Settings, sockets: Sequence[socket.socket]) -> int:
    """Serves with the networks in this process until a signal comes; returns the exit status.

    Args:
        settings: everything an operator can set.
        sockets: bound to the port, and not listening yet.
    """
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    runtime = Runtime(settings)
    try:
        app = create_app(settings, runtime, on_ready=lambda: _get_ready(server), on_failure=fail)
    except KeysError as error:
        _LOG.error("cannot start: %s", error)
        return 2
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        http=TimeLimitedProtocol,
        loop="asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    server = DrainingServer(config, runtime)
    server.run(list(sockets))
    if not failures:
        return 0 if server.started else 1
    failure = failures[0]
    known = isinstance(failure, NetworkError | ValueError)
    _LOG.error("cannot start: %s", failure, exc_info=None if known else failure)
    return 1


def serve_on_cluster(settings: Settings, address: str | None, most: int | None) -> int:
    """Serves with the networks in replicas on a Ray cluster; returns the exit status.

    Args:
        settings: everything an operator can set.
        address: of a cluster that runs; None starts one on this machine.
        most: replicas of a network under load; None for as many as there are devices.
    """
    try:
        find_networks(settings.models, settings.config)  # a mistake shows at once, and not when all is started
        join_cluster(address, with_logs=True)
    except (NetworkError, ClusterError) as error:
        _LOG.error("cannot start: %s", error)
        return 1
    except Interrupted:
        return 0
    from app.cluster.serving import serve_on_ray

    return serve_on_ray(settings, ends_cluster=address is None, most=most)


def _get_ready(server: DrainingServer) -> None:
    settle()
    if not server.started or server.should_exit:
        return
    _LOG.info(
        "ready. The page: %s; a first picture: "
        "curl -F image=@photo.jpg -H 'Accept: image/png' %s/v1/explain -o overlay.png",
        server.url,
        server.url,
    )

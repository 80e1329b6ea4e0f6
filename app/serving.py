"""`python -m app serve`: the server process, from its settings to its last answer."""

import asyncio
import logging
import os
import socket
import threading
import time
from types import FrameType

import uvicorn
from pydantic import ValidationError

from app.cluster.joining import ClusterError, Interrupted, join_cluster
from app.connections import ImpatientProtocol
from app.keys import KeysError
from app.logs import set_up_logs
from app.main import create_app
from app.runtime.runtime import Runtime
from app.settings import Settings
from service_models import NetworkError, find_networks

_LOG = logging.getLogger("app")

# Balancers are given this long to see that the service is not ready any more, before nothing listens.
_NOTICE_S = 2.0


class Server(uvicorn.Server):
    """Drains before it stops: it listens on, answers what was accepted, and refuses the rest."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Opens the socket."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, a second one stops at once."""
        if self._loop is None or self._runtime.is_draining:
            super().handle_exit(sig, frame)
            self._captured_signals.clear()  # they have been obeyed: nobody needs them raised again
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
    os._exit(0)


def serve(*, on_ray: bool = False, address: str | None = None, most: int | None = None) -> int:
    """Serves until a signal comes; returns the exit status.

    Args:
        on_ray: whether networks run in replicas on a Ray cluster.
        address: of a cluster that runs; None starts one on this machine.
        most: replicas of a network under load; None for as many as there are devices.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        set_up_logs("auto")
        for mistake in error.errors():
            name = "_".join(("CAM", *map(str, mistake["loc"][:1]))).upper()
            _LOG.error("%s: %s", name, mistake["msg"])
        return 2
    set_up_logs(settings.log_format)
    if on_ray:
        return _serve_on_ray(settings, address, most)
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    runtime = Runtime(settings)
    try:
        app = create_app(settings, runtime, on_ready=lambda: _say_where(server), on_failure=fail)
    except KeysError as error:
        _LOG.error("cannot start: %s", error)
        return 2
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        http=ImpatientProtocol,
        loop="asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    server = Server(config, runtime)
    server.run()
    if not failures:
        return 0 if server.started else 1
    failure = failures[0]
    known = isinstance(failure, NetworkError | ValueError)
    _LOG.error("cannot start: %s", failure, exc_info=None if known else failure)
    return 1


def _serve_on_ray(settings: Settings, address: str | None, most: int | None) -> int:
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


def _say_where(server: uvicorn.Server) -> None:
    if not server.started or server.should_exit:
        return
    # The port of the socket, not of the settings: 0 takes a free one.
    port = server.servers[0].sockets[0].getsockname()[1]
    host = f"[{server.config.host}]" if ":" in server.config.host else server.config.host
    url = f"http://{host}:{port}"
    _LOG.info(
        "ready. The page: %s; a first picture: "
        "curl -F image=@photo.jpg -H 'Accept: image/png' %s/v1/explain -o overlay.png",
        url,
        url,
    )

"""Joins a Ray cluster, or starts one on this machine."""

import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Ray reads these when it is imported, here and in its workers: it sends no statistics, and needs a token of who joins.
_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "app.cluster.proxy:middlewares",
}
_CONNECT_S = 10.0


class ClusterError(Exception):
    """There is no such cluster, or no Ray."""


class Interrupted(Exception):
    """SIGTERM or SIGHUP came while Ray was starting."""


def join_cluster(address: str | None, *, with_logs: bool) -> None:
    """Joins a cluster, or starts one that ends with this process.

    Args:
        address: host and port of a cluster that runs; None starts one.
        with_logs: whether what its workers print is printed here.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be joined.
        Interrupted: SIGTERM or SIGHUP came.
    """
    _prepare(address)
    try:
        import ray
    except ImportError:
        raise ClusterError("--engine ray: needs Ray: pip install 'shapley-cam-service[ray]'") from None
    if address is not None:
        _check_address(address)
    # Ray sets a handler of its own for the first, and leaves the other.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    if handlers[signal.SIGHUP] is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: sys.exit())
    try:
        with _stderr_dropped():
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                logging_level=logging.ERROR,
                log_to_driver=with_logs,
                runtime_env=_worker_environment(),
            )
    except SystemExit:
        raise Interrupted from None
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = f"--address: {address} cannot be joined" if address else "--engine ray: Ray did not start"
        raise ClusterError(f"{where}: {error}") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _prepare(address: str | None) -> None:
    """Turns usage statistics off and authentication by a token on, unless an operator has said otherwise.

    To be called before Ray is imported.

    Args:
        address: of a cluster that runs; None where one is started.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    if address is None and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Nobody else has to join: its token is nowhere on a disk.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray's C++ warns of the loss of what lies with this process itself, and calls that an error.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ["PYTHONPATH"] = _python_path()


def _worker_environment() -> dict[str, Any]:
    """The runtime environment of our workers: they find this package where it is not installed, and are set up."""
    return {
        "env_vars": {"PYTHONPATH": _python_path()},
        "worker_process_setup_hook": "app.process.prepare_worker",
    }


def _python_path() -> str:
    root = str(Path(__file__).parents[2])
    others = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([root, *others]))


def _check_address(address: str) -> None:
    """Checks that a cluster listens; Ray itself would try for minutes.

    Raises:
        ClusterError: nobody does, or it is no address of a cluster's head.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ClusterError(f"--address: {address!r} is no HOST:PORT of a Ray cluster's head")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"--address: no cluster answers at {address}: {error}") from None


@contextmanager
def _stderr_dropped() -> Iterator[None]:
    """Drops what is written to stderr meanwhile: the C++ of Ray writes the level of its log there."""
    for handler in logging.getLogger().handlers:
        handler.flush()  # the log is written by another thread
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

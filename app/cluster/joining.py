"""Joins a Ray cluster, or starts one on this machine."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.cluster import prepare_ray, worker_environment

_CONNECT_S = 10.0


class ClusterError(Exception):
    """There is no such cluster, or no Ray."""


class Interrupted(Exception):
    """SIGTERM came while Ray was starting."""


def join_cluster(address: str | None, *, with_logs: bool) -> None:
    """Joins a cluster, or starts one that ends with this process.

    Args:
        address: host and port of a cluster that runs; None starts one.
        with_logs: whether what its workers print is printed here.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be joined.
        Interrupted: SIGTERM came.
    """
    prepare_ray(address)
    try:
        import ray
    except ImportError:
        raise ClusterError("--engine ray: needs Ray: pip install 'shapley-cam-service[ray]'") from None
    if address is not None:
        _check_address(address)
    # Ray sets a handler of its own.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _hushed():
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                logging_level=logging.ERROR,
                log_to_driver=with_logs,
                runtime_env=worker_environment(),
            )
    except SystemExit:
        raise Interrupted from None
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = f"--address: {address} cannot be joined" if address else "--engine ray: Ray did not start"
        raise ClusterError(f"{where}: {error}") from None
    finally:
        signal.signal(signal.SIGTERM, handler)


def _check_address(address: str) -> None:
    """Sees whether somebody listens; Ray itself would try for minutes.

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
def _hushed() -> Iterator[None]:
    """Drops what is written to the standard error meanwhile: C++ tells there of the level of its log."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

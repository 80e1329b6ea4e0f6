"""`python -m app serve --engine ray`: the same service on a cluster, with replicas of each network."""

import logging
import re
import signal
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from app.cluster.remote import RemoteRuntime
from app.cluster.replica import NetworkReplica
from app.logs import set_up_logs
from app.main import create_app
from app.process import stopping_signals
from app.settings import Settings

_LOG = logging.getLogger("app")

_APP = "shapley-cam"
# Replicas keep their device busy, not Ray's count of processors: with none left free a lost node stalls the cluster.
_REPLICA_CPUS = 0.5
_INGRESS_CPUS = 0.1
# Ray Serve's own limit is never reached: the ingress refuses requests beyond `CAM_QUEUE_SIZE` with an error of its own.
_REQUESTS = 10_000
# Another replica is wanted when one holds so many requests: a full batch runs, and another one waits.
_REQUESTS_A_REPLICA = 16
_HEALTH_EVERY_S = 2.0

_OUR_ERROR = re.compile(r"^(?:app|service_models)\.[\w.]+: (.*)$", re.MULTILINE)


class Ingress:
    """The HTTP side of the service; networks are elsewhere."""

    def __init__(self, settings: Settings, **handles: DeploymentHandle) -> None:
        set_up_logs(settings.log_format)
        self._settings = settings
        # Deployments cannot be bound as keys of a mapping, but as arguments.
        self._runtime = RemoteRuntime(settings, dict(zip(settings.models, handles.values(), strict=True)))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve."""
        return _WithState(create_app(self._settings, self._runtime))

    async def drain(self) -> None:
        """Takes no more requests, and returns when all that were accepted are answered."""
        await self._runtime.drain()


class _WithState:
    """Hands the state of the lifespan to requests, which Ray Serve leaves out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._state: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = self._state if scope["type"] == "lifespan" else self._state.copy()
        await self._app({**scope, "state": state}, receive, send)


def serve_on_ray(settings: Settings, *, ends_cluster: bool, most: int | None) -> int:
    """Serves on the cluster that was joined until a signal comes; returns the exit status.

    Args:
        settings: everything an operator can set.
        ends_cluster: whether the cluster is this service's own.
        most: replicas of a network under load; None for as many as there are devices.
    """
    # Workers on a cluster have working directories of their own.
    paths = {name: getattr(settings, name) for name in ("config", "weights_dir", "api_keys_file")}
    settings = settings.model_copy(update={name: path.absolute() for name, path in paths.items() if path})
    stopping = threading.Event()
    for number in stopping_signals():
        signal.signal(number, lambda *_: stopping.set())
    try:
        handle = _deploy(settings, most)
    except RuntimeError as error:
        # The last line of a traceback, or all there is.
        _LOG.error("cannot start: %s", _reason() or str(error).strip().splitlines()[-1])
        _leave(in_order=not ends_cluster)
        return 1
    _LOG.info("ready, running on http://%s:%d as %s of Ray Serve", settings.host, settings.port, _APP)
    stopping.wait()
    _LOG.info("stopping: answering what was accepted, for at most %g s", settings.drain_s)
    try:
        handle.broadcast("drain").results(timeout_s=settings.drain_s)
    except TimeoutError:
        _LOG.warning("not everything was answered within %g s", settings.drain_s)
        _leave(in_order=not ends_cluster)
    else:
        # The last replies are still on their way through the proxy.
        _leave(in_order=True)
    return 0


def _leave(*, in_order: bool) -> None:
    """Leaves the cluster. It ends if it was started here; another one goes on running.

    Args:
        in_order: whether Ray Serve takes the service down, which has its replicas end what they are at.
    """
    if in_order:
        serve.delete(_APP)
    ray.shutdown()


def _reason() -> str | None:
    """Why a replica could not be made: the last line of a traceback that Ray Serve keeps."""
    app = serve.status().applications.get(_APP)
    messages = [deployment.message for deployment in app.deployments.values()] if app else []
    found = [_OUR_ERROR.findall(message) for message in messages]
    return next((errors[-1] for errors in found if errors), None)


def _deploy(settings: Settings, most: int | None) -> DeploymentHandle:
    resources: Mapping[str, float] = ray.cluster_resources()
    gpus = resources.get("GPU", 0.0)
    nodes = len([node for node in ray.nodes() if node["Alive"]])
    most = most or max(1, int(gpus) or nodes)
    options = {"num_cpus": min(_REPLICA_CPUS, resources.get("CPU", 1.0) / (2 * len(settings.models)))}
    if gpus and "cpu" not in settings.device:
        # Networks share a GPU where there are fewer than networks.
        options["num_gpus"] = min(1.0, gpus / len(settings.models))
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    logs = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(http_options={"host": settings.host, "port": settings.port}, logging_config=logs)
    replicas = {
        f"network_{number}": serve.deployment(
            NetworkReplica,
            name=name,
            ray_actor_options=options,
            autoscaling_config={
                "min_replicas": 1, "max_replicas": most, "target_ongoing_requests": _REQUESTS_A_REPLICA,
            },
            max_ongoing_requests=_REQUESTS,
            health_check_period_s=_HEALTH_EVERY_S,
            graceful_shutdown_timeout_s=settings.drain_s,
        ).bind(settings, name)
        for number, name in enumerate(settings.models)
    }  # fmt: skip
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        ray_actor_options={"num_cpus": _INGRESS_CPUS},
        max_ongoing_requests=_REQUESTS,
        health_check_period_s=_HEALTH_EVERY_S,
        graceful_shutdown_timeout_s=settings.drain_s,
    )
    return serve.run(ingress.bind(settings, **replicas), name=_APP, logging_config=logs)

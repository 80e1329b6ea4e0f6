"""Builds the application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp

from app.api import compare, explain, health, kserve, metrics, models, open_inference, page, predict, progress
from app.api.guard import KeyGuard
from app.api.handlers import add_handlers
from app.api.limits import BodyLimit, HeaderLimit
from app.api.observing import Observing, is_quiet
from app.api.openapi import install_openapi
from app.api.security import SecurityHeaders
from app.keys import Keys
from app.runtime.gauges import Gauges
from app.runtime.runtime import Runtime
from app.settings import Settings

_LOG = logging.getLogger(__name__)
_DESCRIPTION = """
Post an image, get class scores and the reasons for them: class activation maps read as Shapley values
(Cai, arXiv 2501.06261).
"""


class AppState(TypedDict):
    """What the lifespan hands to requests."""

    runtime: Runtime


def create_app(
    settings: Settings,
    runtime: Runtime | None = None,
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_failure: Callable[[Exception], None] = lambda _error: None,
) -> FastAPI:
    """Builds the application; the networks load in the background once it runs.

    Args:
        settings: everything an operator can set.
        runtime: made of the same settings, where the caller wants to hold it.
        on_ready: called once when all networks are loaded and warm.
        on_failure: called once with the reason when a network cannot be loaded.

    Raises:
        KeysError: the file of API keys cannot be used.
    """
    runtime = runtime or Runtime(settings)
    runtime.meters.registry.register(Gauges(runtime))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[AppState]:
        loading = asyncio.create_task(_load(runtime, on_ready, on_failure))
        try:
            await runtime.images.pool.start()
            yield {"runtime": runtime}
        finally:
            runtime.is_draining = True
            await loading
            await runtime.images.pool.close()
            await asyncio.to_thread(runtime.close)

    app = FastAPIOffline(
        title="ShapleyCAM service",
        version="1",
        description=_DESCRIPTION.strip(),
        lifespan=lifespan,
        redoc_url=None,
        # To a path of another spelling it would send callers by whatever name of the host they gave.
        redirect_slashes=False,
        swagger_ui_parameters={"tryItOutEnabled": True, "defaultModelsExpandDepth": 0},
        # Switched on by OpenTelemetry's own variables; the figures are Prometheus' business.
        telemetry={
            "auto_configure": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "exclude": is_quiet,
        },
    )
    for resource in (explain, compare, predict, progress, kserve, models, open_inference, page, health, metrics):
        app.include_router(resource.router)
    _add_middleware(app, settings, runtime)
    add_handlers(app)
    install_openapi(app, settings)
    return app


def _add_middleware(app: FastAPI, settings: Settings, runtime: Runtime) -> None:
    """Wraps the application; what is added last sees a request first."""
    app.add_middleware(HeaderLimit)
    if settings.api_keys_file is not None:
        app.add_middleware(KeyGuard, keys=Keys(settings.api_keys_file))
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, memory=runtime.bodies, limit_s=settings.timeout_s)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID", "traceparent"],
            expose_headers=["X-Explanation", "X-Request-ID", "Server-Timing", "Retry-After"],
        )
    app.add_middleware(Observing, meters=runtime.meters)
    build = app.build_middleware_stack

    def build_guarded() -> ASGIApp:
        """Wraps what Starlette adds outside of all others, too: its own answer to their failures."""
        return SecurityHeaders(build())

    app.build_middleware_stack = build_guarded  # type: ignore[method-assign]


async def _load(runtime: Runtime, on_ready: Callable[[], None], on_failure: Callable[[Exception], None]) -> None:
    try:
        await asyncio.to_thread(runtime.load)
    except Exception as error:  # whatever went wrong, the operator must hear of it
        on_failure(error)
    else:
        if runtime.is_loaded:
            on_ready()

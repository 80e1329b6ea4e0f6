"""GET /metrics: what the service counts, for Prometheus."""

import asyncio

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from app.api.context import runtime_of
from app.api.openapi import documented

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Counters and timings",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented(401, 500)},
)
async def metrics(request: Request) -> Response:
    """Prometheus' text format, or OpenMetrics where that is asked for."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    # A GPU is asked for its memory, which must not hold the event loop.
    text = await asyncio.to_thread(encode, runtime_of(request).meters.registry)
    return Response(text, headers={"Content-Type": content_type})

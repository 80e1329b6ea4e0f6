"""What a request finds of the running service."""

from fastapi import Request

from app.runtime.runtime import Runtime


def runtime_of(request: Request) -> Runtime:
    """The runtime that the lifespan made."""
    runtime = request.state.runtime
    assert isinstance(runtime, Runtime)
    return runtime

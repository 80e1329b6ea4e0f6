"""What Ray Serve's HTTP proxy is told to do besides: Serve calls `middlewares` when a proxy starts."""

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class OneRequestId:
    """Leaves the request id that the application gives, where the proxy has added one of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""

        async def send_one(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if given := headers.getlist("x-request-id"):
                    headers["x-request-id"] = given[0]
            await send(message)

        await self._app(scope, receive, send_one)


def middlewares() -> list[Middleware]:
    """What wraps all answers of the proxy."""
    return [Middleware(OneRequestId)]

"""Lets in who has an API key."""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.handlers import respond
from app.api.page import FILES
from app.api.record import record_of
from app.errors import Unauthorized
from app.keys import Keys

# Probes know no keys. The page at the front door asks for one; its own files are the same in every installation.
_OPEN = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})


class KeyGuard:
    """ASGI middleware that answers 401 to requests without a known `Authorization: Bearer` key."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what is open or has a key."""
        if scope["type"] != "http" or _is_open(scope):
            await self._app(scope, receive, send)
            return
        name = self._name(Headers(scope=scope))
        if name is None:
            error = Unauthorized(
                "an API key is needed",
                headers={"WWW-Authenticate": "Bearer"},
                field="Authorization",
                expected="Bearer and a key of this service",
            )
            await respond(Request(scope), error)(scope, receive, send)
            return
        record_of(scope).key = name
        await self._app(scope, receive, send)

    def _name(self, headers: Headers) -> str | None:
        """Whose key a request came with."""
        given = headers.getlist("authorization")
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        return self._keys.name_of(key.strip()) if scheme.lower() == "bearer" else None


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    return path in _OPEN or (scope["method"] == "GET" and (path == "/" or path.startswith(FILES)))

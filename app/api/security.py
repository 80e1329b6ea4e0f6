"""Headers that tell browsers to trust nothing but the service's own pages."""

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOTHING = "default-src 'none'; frame-ancestors 'none'"
TRUST_NOTHING = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}
_PAGE = (
    "default-src 'none'; connect-src 'self'; font-src 'self'; img-src 'self' data: blob:; style-src 'self' "
    "'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src 'self'"
)
_NOT_MODIFIED = 304
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class SecurityHeaders:
    """ASGI middleware that adds them to every reply; a page may run its own scripts and no others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Holds a page back until its scripts are known; everything else passes at once."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: list[Message] = []

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(TRUST_NOTHING)
                if headers.get("content-type", "").startswith("text/html"):
                    held.append(message)
                    return
                # "Not modified" would put it in the place of the policy that the page came with.
                if message["status"] != _NOT_MODIFIED:
                    headers["Content-Security-Policy"] = NOTHING
            if not held:
                await send(message)
                return
            held.append(message)
            if not message.get("more_body", False):
                page = b"".join(part.get("body", b"") for part in held)
                MutableHeaders(scope=held[0])["Content-Security-Policy"] = _policy(page)
                for part in held:
                    await send(part)

        await self._app(scope, receive, answer)


def _policy(page: bytes) -> str:
    """What a page may load: its inline scripts are named by their hashes."""
    digests = (hashlib.sha256(script).digest() for script in _INLINE.findall(page))
    hashes = (f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return _PAGE + "".join(hashes)

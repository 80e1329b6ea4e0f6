"""Every error that a caller can be answered with: stable code, HTTP status, message, and the field it is about.

This module imports nothing of the service and nothing of the web, so that every room may raise these.
"""

from collections.abc import Mapping
from typing import ClassVar


class ServiceError(Exception):
    """Base of all answers that are errors.

    Attributes:
        code: stable name on the wire.
        status: HTTP status.
        message: what a caller can act on.
        field: the field or header to blame, where there is one.
        expected: what would have been right, where that can be said.
        facts: further entries of the reply's `detail`.
        headers: additional response headers.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    field: str | None = None
    expected: str | None = None

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        expected: str | None = None,
        headers: Mapping[str, str] | None = None,
        **facts: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = self.field if field is None else field
        self.expected = self.expected if expected is None else expected
        self.facts = facts
        self.headers = dict(headers or {})

    @property
    def detail(self) -> dict[str, object]:
        """What the reply says beside code and message."""
        named = {"field": self.field, "expected": self.expected}
        return {name: value for name, value in named.items() if value is not None} | self.facts


class MalformedBody(ServiceError):
    """The body is not valid JSON, multipart or base64."""

    code, status = "malformed_body", 400


class Unauthorized(ServiceError):
    """No API key of `CAM_API_KEYS_FILE` came with the request."""

    code, status = "unauthorized", 401


class NotFound(ServiceError):
    """No such resource."""

    code, status = "not_found", 404


class UnknownModel(ServiceError):
    """No such network is loaded."""

    code, status = "unknown_model", 404


class MethodNotAllowed(ServiceError):
    """The resource does not support this HTTP method."""

    code, status = "method_not_allowed", 405


class NotAcceptable(ServiceError):
    """None of the media types that the caller accepts can be produced."""

    code, status = "not_acceptable", 406


class BodyTooLarge(ServiceError):
    """The request body exceeds `CAM_MAX_BODY_MIB`."""

    code, status = "body_too_large", 413


class UnsupportedMediaType(ServiceError):
    """The type of the body or of the file is not supported."""

    code, status = "unsupported_media_type", 415


class InvalidParameter(ServiceError):
    """A field is missing, unknown, given more than once or out of range."""

    code, status = "invalid_parameter", 422


class ImageError(ServiceError):
    """Base of what can be wrong with a posted picture."""

    field = "image"


class TooManyPixels(ImageError):
    """The picture exceeds `CAM_MAX_MEGAPIXELS`."""

    code, status = "too_many_pixels", 413


class UnsupportedImage(ImageError, UnsupportedMediaType):
    """The file does not start like any accepted image format."""


class ImageUnreadable(ImageError):
    """The picture is cut short, corrupt or of an unusual kind."""

    code, status = "image_unreadable", 422
    expected = "a complete picture"


class ImageTooSmall(ImageError):
    """The picture is under 8 px on a side."""

    code, status = "image_too_small", 422


class QueueFull(ServiceError):
    """More work is waiting than `CAM_QUEUE_SIZE` allows."""

    code, status = "queue_full", 429


class Internal(ServiceError):
    """A fault of the service."""

    code, status = "internal", 500


class NotOffered(ServiceError):
    """A part of a protocol that the service does not implement."""

    code, status = "not_implemented", 501


class NotReady(ServiceError):
    """The network is still loading."""

    code, status = "not_ready", 503


class Draining(ServiceError):
    """The service is stopping: it answers what it has accepted, and accepts no more."""

    code, status = "draining", 503


class WorkerFailed(ServiceError):
    """The worker that owns the device failed; its requests are lost, and a new worker takes over."""

    code, status = "worker_failed", 503


class Timeout(ServiceError):
    """The answer was not ready within `CAM_TIMEOUT_S`."""

    code, status = "timeout", 504


# One class for each code.
ERRORS: tuple[type[ServiceError], ...] = tuple(
    error for error in (*ServiceError.__subclasses__(), *ImageError.__subclasses__()) if "code" in vars(error)
)

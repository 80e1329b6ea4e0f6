"""Every error that a caller can be answered with: stable code, HTTP status, message and detail."""

from collections.abc import Mapping
from typing import ClassVar


class ServiceError(Exception):
    """Base of all answers that are errors.

    Attributes:
        code: stable name on the wire.
        status: HTTP status.
        message: what a caller can act on.
        detail: names the field and what it takes, where there is one.
        headers: additional response headers.
    """

    code: ClassVar[str]
    status: ClassVar[int]

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None, **detail: object) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.headers = dict(headers or {})


class MalformedBody(ServiceError):
    """JSON, multipart or base64 that is none."""

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
    """The resource does not take this HTTP method."""

    code, status = "method_not_allowed", 405


class NotAcceptable(ServiceError):
    """None of the media types that the caller accepts can be made."""

    code, status = "not_acceptable", 406


class BodyTooLarge(ServiceError):
    """The request body exceeds `CAM_MAX_BODY_MIB`."""

    code, status = "body_too_large", 413


class TooManyPixels(ServiceError):
    """The picture exceeds `CAM_MAX_MEGAPIXELS`."""

    code, status = "too_many_pixels", 413


class UnsupportedMediaType(ServiceError):
    """A body or a file of a type that is not taken."""

    code, status = "unsupported_media_type", 415


class InvalidParameter(ServiceError):
    """A field is missing, unknown, doubled or out of range."""

    code, status = "invalid_parameter", 422


class ImageUnreadable(ServiceError):
    """A picture cut short or corrupt."""

    code, status = "image_unreadable", 422


class ImageTooSmall(ServiceError):
    """A picture under 8 px on a side."""

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
    """The service is stopping: it answers what it has accepted, and takes no more."""

    code, status = "draining", 503


class WorkerFailed(ServiceError):
    """The worker that owns the device failed; what it held is lost, and a new one takes over."""

    code, status = "worker_failed", 503


class Timeout(ServiceError):
    """The answer was not ready within `CAM_TIMEOUT_S`."""

    code, status = "timeout", 504


ERRORS: tuple[type[ServiceError], ...] = tuple(ServiceError.__subclasses__())

"""Errors for questions that the engine cannot answer."""

from typing import ClassVar


class CamError(Exception):
    """Base of everything that `app.cam` raises for a caller's mistake.

    Attributes:
        field: the choice to blame.
        expected: what it may be.
    """

    field: ClassVar[str]
    expected: ClassVar[str]


class LayerError(CamError):
    """The target layer does not exist, is never reached, or has no spatial grid."""

    field = "layer"
    expected = "pre_gap, last_conv, last_norm, or the path of a module with a spatial grid or of the ReLU after it"


class MethodError(CamError):
    """The method cannot be used at this layer or with this utility."""

    field, expected = "method", "a method that this layer and utility allow"


class TargetError(CamError):
    """The target class does not exist."""

    field, expected = "target", "predicted, least-likely, a class index or a class label"

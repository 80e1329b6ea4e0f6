"""What can be asked of the engine that it cannot do."""


class CamError(Exception):
    """Base of everything that `app.cam` raises for a caller's mistake."""


class LayerError(CamError):
    """The target layer does not exist, is never reached, or has no spatial grid."""


class MethodError(CamError):
    """The method cannot be used at this layer or with this utility."""


class TargetError(CamError):
    """The target class does not exist."""

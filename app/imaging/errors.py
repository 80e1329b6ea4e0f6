"""What can be wrong with a posted picture, in words that its sender can act on."""


class ImagingError(Exception):
    """A picture that cannot be used; the message is fit for the one who sent it."""


class UnsupportedImage(ImagingError):
    """The first bytes are the signature of no accepted image format."""

    def __init__(self, accepted: tuple[str, ...]) -> None:
        super().__init__(
            f"These bytes are no picture in an accepted format; accepted are {', '.join(accepted)}, "
            "told apart by their first bytes, not by name or declared type."
        )
        self.accepted = accepted


class TooManyPixels(ImagingError):
    """The header claims more pixels than are accepted."""

    def __init__(self, width: int, height: int, limit: int) -> None:
        super().__init__(
            f"The picture has {width} x {height} = {width * height:,} pixels; at most {limit:,} are accepted."
        )
        self.width = width
        self.height = height
        self.limit = limit


class ImageTooSmall(ImagingError):
    """A side is shorter than a network can make sense of."""

    def __init__(self, width: int, height: int, minimum: int) -> None:
        super().__init__(f"The picture has {width} x {height} pixels; both sides must have at least {minimum}.")
        self.width = width
        self.height = height
        self.minimum = minimum


class ImageUnreadable(ImagingError):
    """The file is of an accepted format, but cut short, corrupt or of an unusual kind."""

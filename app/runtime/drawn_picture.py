"""The pictures of a reply, and the memory that they take."""

from dataclasses import dataclass

from app.imaging.shared import SharedBytes


@dataclass(frozen=True, slots=True)
class DrawnPicture:
    """A PNG file in shared memory.

    Attributes:
        size: (width, height) in px.
        start: where it begins.
        length: in bytes.
        memory: that holds it.
    """

    size: tuple[int, int]
    start: int
    length: int
    memory: SharedBytes

    def read(self, start: int, count: int) -> bytes:
        """Copies a part of the file."""
        return self.memory.read(self.start + start, min(count, self.length - start))

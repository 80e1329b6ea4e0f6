"""Reads the files that an operator names: bounded, never waiting, and every mistake in them fits into a line."""

import os
import stat
from pathlib import Path

_LONGEST_NAME = 200


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The content of a file.

    Args:
        path: of a regular file; a pipe or a device might have no end, or no beginning.
        most_bytes: how large it may be.

    Raises:
        OSError: it cannot be read, is not a regular file or too large; `strerror` says which.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(None, "it is not a regular file")
        content: bytes = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(None, f"it is larger than {most_bytes:,} bytes")
    return content


def _open_at_once(path: str, flags: int) -> int:
    # Without this flag the opening of a pipe waits for somebody who writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


def is_file(path: Path) -> bool:
    """Whether there is a regular file that may be looked at."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder that may be looked at."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def printable(value: object, most: int = _LONGEST_NAME) -> str:
    """A name, a value or an error as messages show it: on one line, and cut where it is long.

    Args:
        value: what is shown by its `str`.
        most: how many characters of it.
    """
    try:
        text = str(value)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits, lists in lists in lists
        return f"a very long {type(value).__name__}"
    cut = text if len(text) <= most else f"{text[:most]}..."
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in cut)

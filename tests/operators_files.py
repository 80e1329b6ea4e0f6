"""Paths that an operator may name by mistake, and where nothing can be read."""

import os
import socket
from collections.abc import Callable
from pathlib import Path


def absent(_path: Path) -> None:
    """Nothing is there."""


def loop(path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path)


def folder(path: Path) -> None:
    """A folder."""
    path.mkdir()


def pipe(path: Path) -> None:
    """A pipe that nobody writes to: who opens it as a file is opened waits for ever."""
    os.mkfifo(path)


def device(path: Path) -> None:
    """A file without an end."""
    path.symlink_to("/dev/zero")


def door(path: Path) -> None:
    """A socket."""
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path must be short
        try:
            listening.bind(path.name)
        finally:
            os.chdir(here)


def huge(path: Path) -> None:
    """A terabyte of zeros that take no room."""
    with path.open("wb") as file:
        file.truncate(2**40)


def binary(path: Path) -> None:
    """No text."""
    path.write_bytes(bytes(range(256)))


UNREADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (absent, "No such file"),
    "a loop of links": (loop, "Too many levels of symbolic links"),
    "a folder": (folder, "Is a directory"),
    "a pipe": (pipe, "is not a regular file"),
    "a device": (device, "is not a regular file"),
    "a socket": (door, "No such device or address"),
    "a terabyte": (huge, "is larger than"),
    "no text": (binary, "UTF-8|utf-8"),
}
"""How each is made, and what a message about it says."""

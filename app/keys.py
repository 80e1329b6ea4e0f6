"""API keys: a file of named keys, read again when it changes."""

import hashlib
import hmac
import logging
import os
import re
import time
from pathlib import Path

from service_models.files import printable, read_bounded

_LOG = logging.getLogger(__name__)

_LINE = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,64})\s*:\s*(?P<key>\S+)")
# The characters of a Bearer token (RFC 6750); too long to be guessed.
_KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*")
_HASHED = re.compile(r"sha256:(?P<digest>[0-9a-f]{64})")
# What `sha256sum` makes of a variable that was never set.
_OF_NOTHING = hashlib.sha256(b"").digest()
_LOOK_AGAIN_S = 1.0
_MOST_BYTES = 2**20


class KeysError(ValueError):
    """The file of API keys cannot be used."""


class Keys:
    """The keys of a file; only their SHA-256 digests are kept.

    A line `name: key` names whoever has the key; the name is what logs and metrics show. In place of the key may stand
    `sha256:` and its digest in hexadecimal. Several lines may have one name, so that a key can be replaced while its
    predecessor still works. Empty lines and those that begin with `#` are ignored.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            KeysError: it cannot be read, or a line is none.
        """
        self._path = path
        self._looked_at = time.monotonic()
        self._signature = _signature(path)
        self._names = _read(path)

    def name_of(self, key: str) -> str | None:
        """The name of a key; None where it is unknown.

        All keys are compared, each in constant time, so that the time reveals nothing about any of them.
        """
        self._look_again()
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        found = None
        for known, name in self._names.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _look_again(self) -> None:
        """Reads the file again if it has changed; the keys stay as they were if it cannot be used."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_AGAIN_S:
            return
        self._looked_at = now
        signature = _signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._names = _read(self._path)
        except KeysError as error:
            _LOG.error("%s; the keys stay as they were", error)
        else:
            _LOG.info("read %d API keys of %s", len(self._names), ", ".join(sorted(set(self._names.values()))))


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Time, inode and size of a file, which change with it; None if it does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116 - once a second, on the event loop
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> dict[bytes, str]:
    """The names by the digests of their keys."""
    file = f"CAM_API_KEYS_FILE: {printable(path)}"
    try:
        lines = read_bounded(path, _MOST_BYTES).decode("utf-8").splitlines()
    except OSError as error:
        raise KeysError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise KeysError(f"{file} cannot be read: it is not UTF-8: {error.reason}") from None
    names: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        # The line holds a secret: it is never shown.
        fault = KeysError(
            f"{file}, line {number} is not 'name: key' with a key of 16 to 512 letters, digits "
            "or ._~+/-= (or sha256: and 64 hexadecimal digits)"
        )
        if not (found := _LINE.fullmatch(line.strip())):
            raise fault
        if hashed := _HASHED.fullmatch(found["key"]):
            digest = bytes.fromhex(hashed["digest"])
            if digest == _OF_NOTHING:
                raise KeysError(f"{file}, line {number} has the digest of an empty key")
        elif _KEY.fullmatch(found["key"]):
            digest = hashlib.sha256(found["key"].encode()).digest()
        else:
            raise fault
        if names.setdefault(digest, found["name"]) != found["name"]:
            raise KeysError(f"{file}, line {number} has the key of {names[digest]}")
    if not names:
        raise KeysError(f"{file} holds no key")
    return names

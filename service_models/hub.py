"""Fetches weights from the libraries' own hubs: checked, cached, given up within seconds."""

from __future__ import annotations

import errno
import hashlib
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import huggingface_hub
import torch
from huggingface_hub import constants as hub_constants

from service_models.checkpoint import INDEX_SUFFIX, files_of_index
from service_models.errors import HubUnreachable, NotOnHub, WeightsError
from service_models.libraries import timm_weights, torchvision_weights
from service_models.spec import Hub, NetworkSpec

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0

# Both libraries end a file's name with the first digits of its SHA-256, as torch.hub expects.
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# The disk is full, or takes no file of this size or none at all.
_DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR,
}  # fmt: skip
_REPOSITORY_FILES = ("model.safetensors", "pytorch_model.bin")
TRANSFORMERS_WEIGHTS = (
    "model.safetensors", f"model.safetensors{INDEX_SUFFIX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX_SUFFIX}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HubFile:
    """Weights on a hub.

    Attributes:
        label: how replies state them: "torchvision/IMAGENET1K_V1".
        url: where the file is; for a repository, where its first file would be.
        repository: id of the model repository, "owner/name" or "owner/name@revision"; None for a plain file.
        files: the names that the repository may have the weights under, best first.
    """

    label: str
    url: str
    repository: str | None = None
    files: tuple[str, ...] = ()


def hub_file(spec: NetworkSpec, mirror: str | None = None) -> HubFile:
    """Says where the library keeps the weights of `spec`.

    Args:
        spec: a network with hub weights.
        mirror: scheme and host that take the place of the library's own, e.g. "http://mirror.local:8080".

    Raises:
        WeightsError: there are no such weights.
    """
    if spec.library == "transformers":
        return repository_file(spec, TRANSFORMERS_WEIGHTS, mirror)
    if spec.library == "torchvision":
        weights = torchvision_weights(spec)
        if weights is None:
            raise WeightsError(f"{spec.name}: torchvision has no weights for {spec.architecture}")
        return HubFile(f"torchvision/{weights.name}", _mirrored(mirror, weights.url))
    config = timm_weights(spec)
    label = f"timm/{config.tag or 'default'}"
    if config.hf_hub_id:
        files = (config.hf_hub_filename,) if config.hf_hub_filename else _REPOSITORY_FILES
        repository, _, revision = config.hf_hub_id.partition("@")
        url = huggingface_hub.hf_hub_url(repository, files[0], revision=revision or None, endpoint=mirror)
        return HubFile(label, url, config.hf_hub_id, files)
    if isinstance(config.url, str) and config.url:
        return HubFile(label, _mirrored(mirror, config.url))
    raise WeightsError(f"{spec.name}: timm has no weights for {spec.architecture}")


def repository_file(spec: NetworkSpec, names: tuple[str, ...], mirror: str | None = None) -> HubFile:
    """A file of the repository that a network of transformers is in.

    Args:
        spec: the network; its architecture is "owner/name" or "owner/name@revision".
        names: that the file may have, best first.
        mirror: as in `hub_file`.

    Raises:
        WeightsError: the network is in a folder, or a tag is asked for.
    """
    if Path(spec.architecture).is_absolute():
        raise WeightsError(
            f"{spec.name}: its architecture is a folder, and has no hub; leave weights out, or name a file"
        )
    if isinstance(spec.weights, Hub) and spec.weights.tag:
        raise WeightsError(
            f"{spec.name}: weights: hub:{spec.weights.tag}: of a repository, the architecture states the revision: "
            f"transformers:{spec.architecture.partition('@')[0]}@{spec.weights.tag}"
        )
    repository, _, revision = spec.architecture.partition("@")
    url = huggingface_hub.hf_hub_url(repository, names[0], revision=revision or None, endpoint=mirror)
    return HubFile(f"transformers/{spec.architecture}", url, spec.architecture, names)


def fetch_weights(file: HubFile, mirror: str | None = None, cache_dir: Path | None = None) -> Path:
    """As `fetch`; of an index, what it names is fetched too.

    Returns:
        The path of the only file, or the folder of several.
    """
    path = fetch(file, mirror, cache_dir)
    if not path.name.endswith(INDEX_SUFFIX):
        return path
    for part in files_of_index(path):
        fetch(replace(file, files=(part,)), mirror, cache_dir)
    return path.parent


def fetch(file: HubFile, mirror: str | None = None, cache_dir: Path | None = None) -> Path:
    """Gives the path of weights from the hub: from the library's cache, else downloaded into it.

    The SHA-256 is checked wherever the hub states one, for a cached file too. A way to the hub is tried for a
    few seconds before a download begins. Proxies are taken from the environment.

    Args:
        file: which weights.
        mirror: as in `hub_file`.
        cache_dir: where files are kept; None takes the library's own cache.

    Returns:
        The path of the file.

    Raises:
        HubUnreachable: not in the cache, and no way to the hub.
        WeightsError: what is there is not what the hub states, or the cache cannot keep it.
    """
    if file.repository is None:
        return _fetch_plain(file.url, cache_dir)
    return _fetch_from_repository(file, file.repository, mirror, cache_dir)


def _fetch_plain(url: str, cache_dir: Path | None) -> Path:
    name = Path(urlsplit(url).path).name
    digest = _DIGEST_IN_NAME.search(name)
    path = (cache_dir or Path(torch.hub.get_dir()) / "checkpoints") / name
    if not path.is_file():
        _probe(url)
        _download(url, path, digest.group(1) if digest else "")
    elif digest:
        _check_digest(path, digest.group(1), url, fresh=False)
    return path


def _fetch_from_repository(file: HubFile, repository: str, mirror: str | None, cache_dir: Path | None) -> Path:
    repository, _, revision = repository.partition("@")
    for name in file.files:
        cached = huggingface_hub.try_to_load_from_cache(repository, name, cache_dir, revision or None)
        if isinstance(cached, str):
            return _checked_blob(Path(cached), file.url, fresh=False)
    if hub_constants.HF_HUB_OFFLINE:
        raise HubUnreachable("HF_HUB_OFFLINE is set")
    for name in file.files:
        url = huggingface_hub.hf_hub_url(repository, name, revision=revision or None, endpoint=mirror)
        if _probe(url) == httpx.codes.NOT_FOUND:
            continue
        try:
            path = huggingface_hub.hf_hub_download(
                repository,
                name,
                revision=revision or None,
                cache_dir=cache_dir,
                endpoint=mirror,
                etag_timeout=CONNECT_TIMEOUT_S,
            )
        # Its errors come from two HTTP libraries, the disk and itself, and it may add more.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise _cache_error(cache_dir or Path(hub_constants.HF_HUB_CACHE), "HF_HOME", error) from error
            raise HubUnreachable(_reason(error)) from error
        return _checked_blob(Path(path), url, fresh=True)
    raise NotOnHub(f"{repository} has none of the files {', '.join(file.files)}")


def _checked_blob(path: Path, url: str, fresh: bool) -> Path:
    """Checks a file of the repository cache, where the name of the blob is its SHA-256 for large files."""
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return path
    try:
        _check_digest(blob, blob.name, url, fresh)
    except WeightsError:
        if fresh:
            path.unlink()
            blob.unlink(missing_ok=True)
        raise
    return path


def _probe(url: str) -> int:
    """Asks for the head of `url`; returns the HTTP status.

    Raises:
        HubUnreachable: no answer within `CONNECT_TIMEOUT_S`, or a refusal.
    """
    outcome: list[int | Exception] = []

    def ask() -> None:
        try:
            outcome.append(httpx.head(url, timeout=CONNECT_TIMEOUT_S).status_code)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            outcome.append(error)

    # The look-up of a host's name knows no time limit, hence the thread.
    thread = threading.Thread(target=ask, name="hub-probe", daemon=True)
    thread.start()
    thread.join(2 * CONNECT_TIMEOUT_S)
    answer = outcome[0] if outcome else TimeoutError(f"no answer within {2 * CONNECT_TIMEOUT_S:.0f} s")
    if isinstance(answer, Exception):
        raise HubUnreachable(_reason(answer)) from answer
    if answer >= httpx.codes.BAD_REQUEST and answer not in (404, 405):
        raise HubUnreachable(f"HTTP status {answer}")
    return answer


def _download(url: str, path: Path, digest: str) -> None:
    """Downloads to a file beside `path` and moves it there once it is whole and its digest is right."""
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with httpx.stream("GET", url, follow_redirects=True, timeout=timeout) as answer, partial.open("wb") as out:
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                out.write(chunk)
        _check_digest(partial, digest, url, fresh=True)
        partial.replace(path)
    except httpx.HTTPError as error:
        raise HubUnreachable(_reason(error)) from error
    except OSError as error:
        raise _cache_error(path.parent, "TORCH_HOME", error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _cache_error(folder: Path, variable: str, error: OSError) -> WeightsError:
    """What is wrong is the disk, and not the way to the hub."""
    reason = error.strerror or _reason(error)
    return WeightsError(
        f"its weights cannot be kept in {folder} ({reason}): make room there, or name another folder with {variable}"
    )


def _check_digest(path: Path, digest: str, url: str, fresh: bool) -> None:
    actual = sha256_of(path)
    if not actual.startswith(digest):
        what = f"what {url} sent" if fresh else f"{path}, from {url},"
        remedy = "it was not kept" if fresh else "delete it and start again"
        raise WeightsError(f"{what} is damaged: its SHA-256 is {actual}, not {digest}...; {remedy}")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mirrored(mirror: str | None, url: str) -> str:
    parts = urlsplit(url)
    return f"{mirror.rstrip('/')}{parts.path}" if mirror else url


def _reason(error: BaseException) -> str:
    """The first line of an error, or its kind where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

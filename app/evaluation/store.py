"""The folder of an evaluation's results: one Parquet file for each network and shard, written whole or not at all."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from app.evaluation.errors import ResultsError
from app.evaluation.rows import SCHEMA, ResultRow, table_of

_LOG = logging.getLogger(__name__)

_MANIFEST = "run.json"
_NETWORKS = "networks"
_ROWS = "rows"


class Results:
    """A folder that is filled shard by shard, by one process or by many.

    A shard is written under a name of its own and then renamed, so that it is there in full or not at all, and writing
    it twice leaves it once.

    Attributes:
        folder: where everything lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, manifest: Mapping[str, Any], *, resume: bool) -> None:
        """Makes the folder, or goes on with one that belongs to the same evaluation.

        Args:
            manifest: what the rows depend on, as JSON.
            resume: whether to go on where results are there already.

        Raises:
            ResultsError: there are results and `resume` is false, or they are another evaluation's.
        """
        path = self.folder / _MANIFEST
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if _write_first(path, json.dumps(manifest, indent=1).encode()):
                return
        except OSError as error:
            raise ResultsError(f"--out: {self.folder} cannot be written to: {error}") from None
        if not resume:
            raise ResultsError(f"--out: {self.folder} holds results already: --resume goes on with them")
        self._check(path, manifest)

    def begin_network(self, network: str, description: Mapping[str, Any]) -> None:
        """Notes what a network is, or checks that it is still the same.

        Raises:
            ResultsError: the results are of other weights or layers.
        """
        path = self._description(network)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _write_first(path, json.dumps(description, indent=1).encode()):
            self._check(path, description)

    def has(self, network: str, shard: int) -> bool:
        """Whether a shard is there in full; one that a machine's crash or a failed copy has cut short is removed."""
        path = self._path(network, shard)
        try:
            pq.read_metadata(path)
        except FileNotFoundError:
            return False
        except pa.ArrowException:
            _LOG.warning("%s is damaged, and will be made again", path)
            path.unlink(missing_ok=True)
            return False
        return True

    def write(self, network: str, shard: int, rows: Iterable[ResultRow]) -> None:
        """Writes a shard."""
        path = self._path(network, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        sink = pa.BufferOutputStream()
        pq.write_table(table_of(rows), sink, compression="zstd")
        _write(path, sink.getvalue())

    def networks(self) -> list[str]:
        """Those that have shards."""
        return sorted({path.parent.name for path in (self.folder / _ROWS).glob("*/*.parquet")})

    def read(self, network: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a network, by image.

        Raises:
            ResultsError: a shard cannot be read.
        """
        paths = sorted(self._shards(network).glob("*.parquet"))
        try:
            tables = [pq.read_table(path, columns=columns, schema=SCHEMA) for path in paths]
        except (OSError, pa.ArrowException) as error:
            raise ResultsError(f"{self.folder} is damaged: {error}") from None
        if not tables:
            raise ResultsError(f"{self.folder} holds no rows of {network}")
        return pa.concat_tables(tables).unify_dictionaries()

    def manifest(self) -> dict[str, Any]:
        """What the rows depend on.

        Raises:
            ResultsError: this is no folder of results.
        """
        return self._load(self.folder / _MANIFEST)

    def description(self, network: str) -> dict[str, Any]:
        """What a network is."""
        return self._load(self._description(network))

    def _description(self, network: str) -> Path:
        # Not among the shards: whoever reads a folder of Parquet files expects nothing else there.
        return self.folder / _NETWORKS / f"{network}.json"

    def _shards(self, network: str) -> Path:
        return self.folder / _ROWS / network

    def _path(self, network: str, shard: int) -> Path:
        return self._shards(network) / f"{shard:06d}.parquet"

    def _check(self, path: Path, expected: Mapping[str, Any]) -> None:
        known = self._load(path)
        # As JSON writes it: tuples are lists there.
        wanted = json.loads(json.dumps(expected))
        different = sorted(name for name in {*known, *wanted} if known.get(name) != wanted.get(name))
        if different:
            name = different[0]
            raise ResultsError(
                f"--out: {path} belongs to another evaluation: {name} was {known.get(name)}, and is {wanted.get(name)}"
            )

    def _load(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ResultsError(f"{self.folder} holds no results of an evaluation: {error}") from None
        assert isinstance(found, dict)
        return found


def _write(path: Path, content: bytes | pa.Buffer) -> None:
    """Writes a file that is there in full or not at all, whatever happens meanwhile."""
    with _draft(path, content) as draft:
        draft.replace(path)


def _write_first(path: Path, content: bytes) -> bool:
    """Writes a file, in full or not at all, unless it is there: of several processes only one writes it."""
    if path.exists():
        return False
    with _draft(path, content) as draft:
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            draft.replace(path)
    return True


@contextmanager
def _draft(path: Path, content: bytes | pa.Buffer) -> Iterator[Path]:
    """The content, safe on the disk, under a name of its own beside `path`."""
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)

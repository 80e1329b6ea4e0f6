"""The options of `python -m app evaluate` and `tables`; imports nothing heavy, so that `--help` comes at once."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(commands: "Commands") -> None:
    """Adds both commands."""
    _add_evaluate(commands.add_parser("evaluate", help="explain a data set and measure the explanations"))
    _add_tables(commands.add_parser("tables", help="make tables and plots of the results of evaluate"))


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def count(text: str) -> int:
    """A whole number from 1.

    Raises:
        ValueError: it is none.
    """
    value = int(text)
    if value < 1:
        raise ValueError
    return value


count.__name__ = "number from 1"


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


_seconds.__name__ = "number of seconds"


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "--data",
        type=Path,
        required=True,
        help="a folder of images, a folder of folders (one a class), or a text file with an image (and a label) a line",
    )
    option("--out", type=Path, required=True, help="folder for the results")
    option("--models", type=_names, help="networks, comma-separated; default CAM_MODELS")
    option("--layers", type=_names, help="layers, comma-separated; default all that a network names")
    option("--methods", type=_names, help="methods, comma-separated; default the ten of the paper's tables")
    option("--utilities", type=_names, help="utilities, comma-separated; default rest")
    option("--preset", help="models, layers, methods and utilities of a table of the paper: table1 to table5")
    option("--target", choices=("predicted", "label"), default="predicted", help="the class that is explained")
    option("--boxes", type=Path, help="folder of ImageNet's XML annotations; adds figures of localisation")
    option("--limit", type=count, help="evaluate the first so many images")
    option("--batch-size", type=count, help="images that pass together; default 8 on the CPU, 64 on a GPU")
    option("--seed", type=int, default=0, help="of the methods that draw")
    option("--device", help="auto, cpu, cuda or cuda:N; default CAM_DEVICE")
    option("--engine", choices=("embedded", "ray"), default="embedded", help="this process, or a Ray cluster")
    option("--address", help="of the Ray cluster; default one on this machine, for as long as it takes")
    option(
        "--stall", type=_seconds, default=1800.0, metavar="SECONDS", help="give up when Ray finishes nothing so long"
    )
    option("--resume", action="store_true", help="go on with results that are there, and skip what is done")


def _add_tables(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("results", type=Path, nargs="+", help="folders that evaluate has filled")
    option("--out", type=Path, help="folder for tables and plots; default `tables` in the first folder of results")
    option("--published", action="store_true", help="set the paper's own figures beside")
    option(
        "--difference",
        type=_names,
        action="append",
        metavar="FIRST,SECOND",
        help="methods to compare image by image; default shapleycam,gradcam",
    )
    option("--plots", action="store_true", help="draw plots as well, as PNG and SVG")

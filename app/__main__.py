"""The command line: `python -m app serve` and `python -m app models`."""

import argparse
import sys

from app.process import prepare_process


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app", description="Explains image classifiers over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve on CAM_HOST:CAM_PORT (README lists all settings)")
    commands.add_parser("models", help="list the networks of the catalogue")
    command = parser.parse_args(arguments).command
    if command == "models":
        return _list_models()
    prepare_process()
    # Imported only now: PyTorch looks at its environment when it is loaded.
    from app.serving import serve

    return serve()


def _list_models() -> int:
    from service_models import CATALOGUE

    for spec in CATALOGUE.values():
        layers = ", ".join(f"{name}: {path}" for name, path in (spec.layers or {}).items())
        print(f"{spec.name:34}{spec.library:13}{layers}")
    print("and every classification network of torchvision and timm by its name")
    return 0


if __name__ == "__main__":
    sys.exit(main())

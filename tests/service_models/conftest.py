"""What several files share: one thread, a hub on this machine, networks of transformers and of the operator's code."""

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from service_models import Network, load_network
from service_models.config import read_config
from testing.mirror import Mirror, serve
from tests.service_models.hugging_face import ARCHITECTURES, LABELS, enliven
from tests.service_models.own_code import CODE, VIEW


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    # Threads that wait for each other on a busy machine make these many small passes four times slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve() as running:
        yield running


@pytest.fixture(scope="package")
def hf() -> Any:
    """The library transformers, imported by no other process of tests than that of the files `test_transformers*.py`.

    `_SHARING` in tests/conftest.py gives them one process.
    """
    try:
        library = importlib.import_module("transformers")
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip("transformers is not installed: pip install '.[transformers]'")
    library.utils.logging.disable_progress_bar()
    return library


@pytest.fixture(scope="package")
def saved(hf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network of each architecture, as the library transformers saves it."""
    root = tmp_path_factory.mktemp("saved")
    for name, (configuration, (processor, arguments), _) in ARCHITECTURES.items():
        torch.manual_seed(len(name))
        config = getattr(hf, f"{name}Config")(**configuration, id2label=dict(enumerate(LABELS)))
        model = getattr(hf, f"{name}ForImageClassification")(config)
        enliven(model)
        model.save_pretrained(root / name)
        getattr(hf, processor)(**arguments).save_pretrained(root / name)
    return root


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """One network of the library transformers that a test may change."""
    return Path(shutil.copytree(saved / "ResNet", tmp_path / "mine"))


@pytest.fixture
def load_own(tmp_path: Path) -> Callable[..., Network]:
    """Loads an entry of the configuration with these lines, of the code in `own_code.py`."""
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "helper.py").write_text("WIDTH = 6\n")

    def of(*lines: str, architecture: str = "python:net.py:build", view: str = VIEW) -> Network:
        config = tmp_path / "networks.toml"
        config.write_text("\n".join(["[networks.mine]", f'architecture = "{architecture}"', view, *lines]))
        return load_network(read_config(config)["mine"], torch.device("cpu"))

    return of

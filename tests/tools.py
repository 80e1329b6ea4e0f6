"""Programs that some tests need and pip cannot install."""

import os
import shutil

import pytest


def tool(name: str, package: str) -> str:
    """Finds a program of a Debian package; where it is missing a developer's test is skipped, and CI's fails."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is missing: apt-get install --no-install-recommends {package}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found

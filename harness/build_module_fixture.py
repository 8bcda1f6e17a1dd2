"""The fixture of cases that need a module of their own, which is not among those of probes/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.images.own_tree_modules import obtain_modules_of_directory
from harness.plugin import RUN


@pytest.fixture
def build_module(request: pytest.FixtureRequest, vm: str) -> Callable[..., Path]:
    """Build a directory's one module for this VM's kernel, once: `build_module(directory, "-DNAME=1")` is its file."""
    fleet = request.config.stash[RUN].fleet

    def build(directory: Path, flags: str = "") -> Path:
        (file,) = obtain_modules_of_directory(directory, fleet.image(vm), fleet.build_context, flags).values()
        return file

    return build

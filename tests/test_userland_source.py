"""The sources of a guest's userland: what the host must have to build them."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.errors import HostError
from harness.images import userland_source

NOWHERE = replace(ARCHITECTURES["sparc64"], gnu_triplet="nowhere")


@pytest.mark.parametrize("printed", ["libc.a", "/opt/lib/libc.a"])
def test_a_compiler_without_a_static_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str
) -> None:
    """gcc prints the path of the file, or repeats its name."""
    compiler = tmp_path / "nowhere-gcc"
    compiler.write_text(f"#!/bin/sh\necho {printed}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if printed.startswith("/"):
        assert userland_source._static_libc(NOWHERE) == Path(printed)
        return
    with pytest.raises(HostError, match="nowhere-gcc: finds no static C library"):
        userland_source._static_libc(NOWHERE)

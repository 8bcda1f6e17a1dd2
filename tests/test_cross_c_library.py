"""Guests of an architecture without a Debian port get the C library of the host's cross compiler, for uprobes."""

from __future__ import annotations

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.core.errors import HostError
from harness.images import cross_c_library
from harness.images.cross_c_library import files_of_cross_c_library
from harness.images.dynamic_linking import interpreter_path
from harness.images.vm_recipe import load_all

SPARC64 = load_all()["sparc64"]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's own C library, where a cross compiler would have it."""
    path = tmp_path / "lib" / "libc.so.6"
    path.parent.mkdir()
    path.write_bytes(_host_library().read_bytes())
    monkeypatch.setattr(cross_c_library, "_library", lambda _: path)
    return path


def _host_library() -> Path:
    mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line)
    return Path(next(mapped))


def test_linker_and_library_are_where_programs_look(library: Path) -> None:
    with library.open("rb") as stream:
        linker = interpreter_path(ELFFile(stream))
    of_host = library.parents[1] / linker.lstrip("/")
    of_host.parent.mkdir(parents=True, exist_ok=True)
    of_host.write_bytes(b"linker")
    assert files_of_cross_c_library(SPARC64) == {
        linker.lstrip("/"): of_host,
        f"lib/{of_host.name}": of_host,
        "lib/libc.so.6": library,
    }


@pytest.mark.usefixtures("library")
def test_a_library_without_its_linker_is_an_error() -> None:
    with pytest.raises(HostError, match="lacks this file"):
        files_of_cross_c_library(SPARC64)


def test_a_compiler_without_its_library_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gcc then prints the name that it was given."""
    compiler = tmp_path / f"{SPARC64.architecture.gnu_triplet}-gcc"
    compiler.write_text("#!/bin/sh\necho libc.so.6\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(HostError, match=r"sparc64-linux-gnu-gcc has no libc\.so\.6; run .* doctor"):
        files_of_cross_c_library(SPARC64)


def test_no_file_without_uprobes_and_none_for_a_debian_port() -> None:
    without = SPARC64.model_copy(update={"traits": SPARC64.traits.model_copy(update={"uprobes": False})})
    assert files_of_cross_c_library(without) == {}
    assert files_of_cross_c_library(load_all()["x86_64-debian"]) == {}

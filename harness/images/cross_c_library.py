"""The dynamic linker and the C library of Debian's cross compiler, for guests of an architecture without a Debian port.

The userland of such a guest is static (userland_source.py). Programs with uprobes are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from elftools.elf.elffile import ELFFile

from harness.core import paths
from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.process import run
from harness.images.dynamic_linking import interpreter_path
from harness.images.vm_recipe import Recipe

_LIBRARY = "libc.so.6"
_COMPILER_S = 30.0


def files_of_cross_c_library(recipe: Recipe) -> Mapping[str, Path]:
    """Return the host's files by their paths in the guest; none if the userland has them or no program needs them.

    Raises HostError when the host's cross compiler or its C library is not installed, or lacks a file.
    """
    architecture = recipe.architecture
    if not architecture.has_static_userland or not recipe.traits.uprobes:
        return {}
    library = _library(architecture)
    with library.open("rb") as stream:
        linker = interpreter_path(ELFFile(stream))
    # gcc's directory of libraries and that of the dynamic linker, `lib64` for example, are next to each other.
    at_host = library.parents[1] / linker.lstrip("/")
    # dlmopen() looks for the linker among the libraries: the C library names it as one that it needs.
    found = {linker.lstrip("/"): at_host, f"lib/{at_host.name}": at_host, f"lib/{_LIBRARY}": library}
    missing = next((path for path in found.values() if not path.is_file()), None)
    if missing:
        raise HostError("the C library of the cross compiler lacks this file", where=str(missing))
    return found


def find_library_of_compiler(architecture: Architecture, name: str) -> Path | None:
    """Return the path of a library with which the compiler of an architecture links; None if it finds none."""
    compiler = f"{architecture.cross_prefix}gcc"
    printed = run([compiler, f"-print-file-name={name}"], deadline=Deadline.after(_COMPILER_S)).output.strip()
    # The compiler prints the bare name of a library that it does not find.
    return Path(printed) if Path(printed).is_absolute() else None


def _library(architecture: Architecture) -> Path:
    found = find_library_of_compiler(architecture, _LIBRARY)
    if found is None:
        raise HostError(
            f"{architecture.cross_prefix}gcc has no {_LIBRARY}",
            mend=f"run {paths.PROGRAM} doctor to see which package has it",
        )
    return found.resolve()

"""The kernel's ELF file, with the names by which that kernel finds its symbols."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from harness.core.elf import Elf, Symbol
from harness.images.image import Image

# clang's thin link-time optimization appends `.llvm.` and a hash to the name of a static function or variable that
# another file of the link uses. A kernel since 5.13 and before 6.11 omits it in each look-up, of names and of
# addresses, but not in /proc/kallsyms (cleanup_symbol_name(), kernel/kallsyms.c, 6.1).
LLVM_SUFFIX = ".llvm."


class _WithShortNames(Elf):
    """A kernel's file in which `f.llvm.HASH` has the name `f`; several symbols may then share a name."""

    @cached_property
    def symbols(self) -> Sequence[Symbol]:
        """Every symbol except the empty first, in the table's order. Raises PinpointError when there is no table."""
        return [
            each._replace(name=short_name(each.name)) if LLVM_SUFFIX in each.name else each for each in super().symbols
        ]


def short_name(name: str) -> str:
    """Return a name without clang's suffix."""
    return name.partition(LLVM_SUFFIX)[0]


def name_in_kallsyms(image: Image, name: str) -> str:
    """Return the name that an image's kernel looks up for a name that /proc/kallsyms lists."""
    return short_name(name) if image.recipe.traits.llvm_suffixes_omitted else name


def kernel_file(image: Image) -> Elf:
    """Return an image's vmlinux. Its symbols have the names that the kernel looks up, not always those in the file."""
    if not image.recipe.traits.llvm_suffixes_omitted:
        return Elf.read_cached(image.vmlinux)
    status = image.vmlinux.stat()
    return _kept(image.vmlinux, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _kept(path: Path, modified: int, size: int) -> Elf:  # noqa: ARG001 - part of the cache key
    return _WithShortNames.read(path)

"""The common form of a kernel for later steps, whether unpacked from a package or built from source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModuleBuildTrees:
    """Directories that `make -C source O=objects M=...` needs to build modules for a kernel."""

    source: Path
    objects: Path


@dataclass(frozen=True)
class KernelBuild:
    """One kernel in the store.

    `key` is the store key. `kernel` is the file that a boot loader starts. `bootable_elf` is the unpacked, linked ELF
    of the same kernel (stripped for a packaged kernel), and `vmlinux` the same ELF with a symbol table. `drivers` are
    the modules that a guest loads for its network, in loading order. `config` maps `CONFIG_X` to its value. `facts`
    holds the figures that the build measured.
    """

    key: str
    release: str
    build_id: str
    kernel: Path
    bootable_elf: Path
    vmlinux: Path
    headers: ModuleBuildTrees
    drivers: tuple[Path, ...]
    config: Mapping[str, str]
    facts: Mapping[str, int]

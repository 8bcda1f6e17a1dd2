"""A kernel as every later step sees it, whether it was unpacked from a package or built from source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Headers:
    """What `make -C source O=objects M=...` needs to build modules for a kernel."""

    source: Path
    objects: Path


@dataclass(frozen=True)
class KernelBuild:
    """One kernel in the store.

    `key` is its store key; `kernel` the file a boot loader starts; `elf` the unpacked ELF of the same kernel as it was
    linked (stripped for a packaged kernel); `vmlinux` the same with a symbol table; `drivers` the modules a guest must
    load to have a network, in loading order; `config` maps `CONFIG_X` to its value; `facts` is what the build measured.
    """

    key: str
    release: str
    build_id: str
    kernel: Path
    elf: Path
    vmlinux: Path
    headers: Headers
    drivers: tuple[Path, ...]
    config: Mapping[str, str]
    facts: Mapping[str, int]

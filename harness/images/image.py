"""The result of building a recipe: all files to boot a guest and to judge landings in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.core.errors import UsageError
from harness.images.kernel import ModuleBuildTrees
from harness.images.vm_recipe import Recipe

_VERSION = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True)
class Image:
    """One bootable image; every file is verified against its store manifest.

    `kernel` is what QEMU is given; `vmlinux` the ELF of that very kernel, with a symbol table and the bytes of its
    text as linked (slide 0); `build_id` the GNU build-id of both, in hex; `initrd` the shared part of the root file
    system, an uncompressed cpio; `modules` the built probe modules by name;
    `config` the kernel's configuration (`CONFIG_X` to `y`, `m` or the value, absent when not set); `facts` what the
    build measured, for traits that leave no other mark; `programs` the built programs of probes/loader by name;
    `own_modules` the modules of the own tree (own_tree_modules.py) by name, which are not part of `key`;
    `drivers` the modules that init loads, by name; `headers` what modules for this kernel are built against; `disk` the
    file of a read-only disk, None for a guest without one; `debug_symbols` the file of debug_symbols.py, None
    without them.
    """

    recipe: Recipe
    key: str
    kernel: Path
    vmlinux: Path
    initrd: Path
    modules: Mapping[str, Path]
    release: str
    build_id: str
    config: Mapping[str, str]
    facts: Mapping[str, int]
    programs: Mapping[str, Path] = field(default_factory=dict)
    own_modules: Mapping[str, Path] = field(default_factory=dict)
    drivers: Mapping[str, Path] = field(default_factory=dict)
    headers: ModuleBuildTrees | None = None
    disk: Path | None = None
    debug_symbols: Path | None = None

    @property
    def version(self) -> tuple[int, int]:
        """The first two numbers of the kernel's release; (0, 0) if it does not begin with two."""
        found = _VERSION.match(self.release)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def uses_one_cpu(self) -> bool:
        """True if the kernel or QEMU's machine uses one virtual CPU only."""
        return "CONFIG_SMP" not in self.config or bool(self.recipe.architecture.qemu_machine.one_cpu_because)

    @property
    def all_modules(self) -> Mapping[str, Path]:
        """The built probe modules and the modules of the own tree, by name."""
        return {**self.modules, **self.own_modules}

    def module(self, name: str) -> Path:
        """Return the file of a module by name. Raises UsageError if there is none."""
        if name not in self.all_modules:
            known = ", ".join(self.own_modules) or "none, because there is no --project with probes/"
            raise UsageError(f"no module named {name!r}", where=self.recipe.name, mend=f"your own are: {known}")
        return self.all_modules[name]

    def with_cpus(self, cpus: int) -> Image:
        """Return this image for a machine with `cpus` virtual CPUs."""
        machine = self.recipe.machine.model_copy(update={"cpus": cpus})
        return replace(self, recipe=self.recipe.model_copy(update={"machine": machine}))

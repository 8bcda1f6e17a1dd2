"""Selection of the drivers that a guest must load from the modules of a packaged kernel."""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.elf import Elf
from harness.core.errors import BuildError


def copy_modules(modules: Path, wanted: Sequence[str], into: Path) -> list[str]:
    """Copy modules of one `lib/modules/RELEASE` to `into`, numbered in loading order; return their file names.

    `wanted` are module names; the dependencies of a module come before it. Raises BuildError when a module is neither
    a file nor built into the kernel.
    """
    files = {_plain(path.name.split(".ko")[0]): path for path in modules.glob("kernel/**/*.ko*")}
    built_in = {_plain(Path(line).stem) for line in (modules / "modules.builtin").read_text().splitlines()}
    into.mkdir()
    ordered: list[str] = []
    for name in wanted:
        _order(_plain(name), files, built_in, into, ordered)
    kept = []
    for number, name in enumerate(ordered):
        kept.append(f"{number:02}-{name}.ko")
        (into / f"{name}.ko").rename(into / kept[-1])
    return kept


def _order(name: str, files: Mapping[str, Path], built_in: set[str], into: Path, ordered: list[str]) -> None:
    """Unpack a module to `into` and append its name after its dependencies; skip modules built into the kernel."""
    if name in ordered or name in built_in:
        return
    if name not in files:
        mend = "see nic_modules in harness/core/architecture_table.py"
        raise BuildError(f"the kernel has no module {name}", mend=mend)
    packed = files[name].read_bytes()
    module = into / f"{name}.ko"
    module.write_bytes(lzma.decompress(packed) if files[name].suffix == ".xz" else packed)
    for needed in _depends(module):
        _order(needed, files, built_in, into, ordered)
    ordered.append(name)


def _depends(module: Path) -> list[str]:
    """Return the dependencies in a module's .modinfo: a package has no modules.dep until it is installed."""
    needed = Elf.read(module).modinfo_value("depends")
    return [_plain(name) for name in needed.split(",") if name]


def _plain(name: str) -> str:
    """Return a module's name in the kernel; file names may contain dashes."""
    return name.replace("-", "_")

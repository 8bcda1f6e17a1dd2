"""The drivers that a guest must load, picked out of a packaged kernel's modules."""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.elf import Elf
from harness.core.errors import BuildError


def keep(modules: Path, wanted: Sequence[str], into: Path) -> list[str]:
    """Keep modules of one `lib/modules/RELEASE`, numbered in loading order; gives their file names in `into`.

    `wanted` are module names; what they depend on comes before them. Raises BuildError when the kernel has one neither
    as a file nor built in.
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
    """Append a module after all it depends on, unpacked to `into`; a module built into the kernel is passed over."""
    if name in ordered or name in built_in:
        return
    if name not in files:
        raise BuildError(f"the kernel has no module {name}", mend="see nic_modules in harness/core/architecture.py")
    packed = files[name].read_bytes()
    module = into / f"{name}.ko"
    module.write_bytes(lzma.decompress(packed) if files[name].suffix == ".xz" else packed)
    for needed in _depends(module):
        _order(needed, files, built_in, into, ordered)
    ordered.append(name)


def _depends(module: Path) -> list[str]:
    """What a module says it needs: a package has no modules.dep, which only its installation makes."""
    elf = Elf.read(module)
    section = elf.sections[".modinfo"]
    fields = elf.section_bytes(".modinfo", 0, section.size).decode(errors="replace").split("\0")
    told = next((field.removeprefix("depends=") for field in fields if field.startswith("depends=")), "")
    return [_plain(name) for name in told.split(",") if name]


def _plain(name: str) -> str:
    """A module's name as the kernel has it: file names may have dashes."""
    return name.replace("-", "_")

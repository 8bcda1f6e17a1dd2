"""The symbols of a packaged kernel from Debian's debug package, which the linker wrote; kallsyms has no part in them.

The package has some 800 MB, and its vmlinux 600 MB. Only the functions of its symbol table are kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import BuildError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.images import deb, debian_kernel
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Recipe

KIND = "debug-symbols"
_FILE = "functions"
_FETCHING = 1800.0
# Where the package has the vmlinux.
_PLACES = ("usr/lib/debug/boot/vmlinux-{0}", "usr/lib/debug/usr/lib/modules/{0}/vmlinux")


class DebugSymbol(NamedTuple):
    """A function's link address and size in bytes; assembler code without a type has size 0."""

    address: int
    size: int


def key_parts(recipe: Recipe, build_context: BuildContext) -> list[str]:
    """Return every input of the symbols, for their store key. Raises HostError if Debian has no such package."""
    name, architecture = package(recipe, build_context)
    packages = build_context.packages
    return [f"{name} {packages.hash(name, architecture)}", code_sha256(Path(__file__)), code_sha256(Path(deb.__file__))]


def obtain(recipe: Recipe, build_id: str, build_context: BuildContext, parts: Sequence[str]) -> Path:
    """Return the file with the functions of the kernel with this build-id, from the store or fetched now.

    Raises BuildError when the package belongs to another build, and what fetching a package raises.
    """

    def build(entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        name, architecture = package(recipe, build_context)
        step.publish_progress(f"fetching {name}", 0.0)
        fetched = build_context.packages.fetch(name, architecture, deadline=Deadline.after(_FETCHING))
        step.publish_progress(f"unpacking the vmlinux of {name}", 0.5)
        release = name.removeprefix("linux-image-").removesuffix("-dbg")
        with tempfile.NamedTemporaryFile(dir=entry, prefix="vmlinux-") as vmlinux:
            deb.copy_first_file_named([fetched], vmlinux_places(release), vmlinux)
            vmlinux.flush()
            elf = Elf.read(Path(vmlinux.name))
            lines = list(_lines(elf))
        (entry / _FILE).write_text("".join(lines))
        step.set_final_detail(f"{len(lines)} functions")
        return {"build_id": elf.build_id, "functions": len(lines)}

    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=build)
    demand_build_id(entry.facts["build_id"], build_id, recipe)
    return entry.path / _FILE


def demand_build_id(of_package: str, of_kernel: str, recipe: Recipe) -> None:
    """Raise BuildError if the debug package belongs to another build than the kernel."""
    if of_package != of_kernel:
        raise BuildError(
            f"the debug package has build-id {of_package}, the kernel {of_kernel}",
            where=recipe.name,
            mend="run without --debug-symbols until Debian has both packages of one build",
        )


def vmlinux_places(release: str) -> list[str]:
    """Return where the debug package of a release may have the vmlinux."""
    return [place.format(release) for place in _PLACES]


def read_functions(file: Path) -> Mapping[str, Sequence[DebugSymbol]]:
    """Return the functions of a file that `obtain` returned, by name."""
    found: dict[str, list[DebugSymbol]] = {}
    for line in file.read_text().splitlines():
        address, size, name = line.split(maxsplit=2)
        found.setdefault(name, []).append(DebugSymbol(int(address, 16), int(size, 16)))
    return found


def _lines(elf: Elf) -> Iterable[str]:
    code = {name for name, section in elf.sections_by_name.items() if section.executable}
    return (
        f"{symbol.address:x} {symbol.size:x} {symbol.name}\n"
        for symbol in elf.symbols
        if symbol.section in code and symbol.kind in ("func", "notype")
    )


def package(recipe: Recipe, build_context: BuildContext) -> tuple[str, str]:
    """Return the name and the architecture of the debug package."""
    name, architecture = debian_kernel.image_package(recipe, build_context.packages)
    return f"{name}-dbg", architecture

"""The .modinfo of a module's file, and checks without a guest that a kernel can load the module."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from harness.core import paths
from harness.core.elf import Elf
from harness.core.elf_pointed_text import pointed_text
from harness.core.errors import PinpointError, UsageError
from harness.images.image import Image

# MODULE_NAME_LEN is 64 minus an unsigned long (include/linux/moduleparam.h, 6.1). A name is a word of a command line.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,55}")
_SHOWN = 6
# struct kernel_param: name, mod, ops, one word of permissions, level and flags, and a pointer.
_PARAM_WORDS = 5


def _modinfo(elf: Elf) -> Mapping[str, Sequence[str]]:
    """Return the fields of .modinfo. Raises UsageError when the section is not valid."""
    try:
        return elf.modinfo_values_by_key
    except PinpointError as error:
        raise UsageError(error.what, where=elf.path.name, mend="build it again") from None


def module_name(elf: Elf, file: Path) -> str:
    """Return the module's name in the kernel. Raises UsageError for a name that no module can have."""
    found = next(iter(_modinfo(elf).get("name", ())), file.name.partition(".ko")[0].replace("-", "_"))
    if not _NAME.fullmatch(found):
        raise UsageError(
            f"calls itself {found[:60]!r}", where=str(file), mend="a name is at most 55 of A-Z a-z 0-9 _ -"
        )
    return found.replace("-", "_")


def parameters(elf: Elf) -> dict[str, str]:
    """Return the module's parameters: name to type and description, if the file has them.

    A parameter of module_param_cb() has no type in .modinfo (include/linux/moduleparam.h, 6.1).
    """
    types = dict(value.partition(":")[::2] for value in _modinfo(elf).get("parmtype", ()))
    described = dict(value.partition(":")[::2] for value in _modinfo(elf).get("parm", ()))
    names = dict.fromkeys([*types, *described, *_names_in_param_section(elf)])
    return {each: ", ".join(filter(None, (types.get(each), described.get(each)))) for each in names}


def _names_in_param_section(elf: Elf) -> list[str]:
    """Return the names that the kernel compares: the first word of each struct kernel_param points to one."""
    size = _PARAM_WORDS * elf.word_bytes
    try:
        pointers = [each for each in elf.relocations("__param") if each.offset % size == 0]
        return [name.decode("ascii") for each in pointers if (name := pointed_text(elf, each))]
    except (PinpointError, UnicodeDecodeError):
        raise UsageError("its section __param is damaged", where=elf.path.name, mend="build it again") from None


def depends(elf: Elf) -> list[str]:
    """Return the names of the modules that must be loaded before this one."""
    needed = next(iter(_modinfo(elf).get("depends", ())), "")
    return [each.replace("-", "_") for each in needed.split(",") if each]


def demand_vermagic(elf: Elf, file: Path, image: Image) -> None:
    """Demand that the kernel will accept the module's vermagic. Raises UsageError with both.

    The kernel's vermagic is taken from the probe modules, which were built for it.
    """
    own = next((Elf.read_cached(path).modinfo_value("vermagic") for path in image.modules.values()), "").strip()
    theirs = elf.modinfo_value("vermagic").strip()
    if theirs.partition(" ")[0] != image.release:
        raise UsageError(
            f"is built for the kernel {theirs.partition(' ')[0] or '(no release)'}, but {image.recipe.name} runs"
            f" {image.release} (vermagic {theirs!r}, the kernel's {own!r})",
            where=str(file),
            mend=f"build it with {paths.PROGRAM} build --module DIR --vm {image.recipe.name}",
        )
    if own and theirs != own:
        raise UsageError(
            f"has the vermagic {theirs!r}, the kernel of {image.recipe.name} has {own!r}",
            where=str(file),
            mend=f"build it with {paths.PROGRAM} build --module DIR --vm {image.recipe.name}",
        )


def demand_undefined_symbols_provided(elf: Elf, file: Path, image: Image, others: Sequence[Elf]) -> None:
    """Demand that the kernel or another module has every symbol that the module needs. Raises UsageError."""
    known = _kernel_symbols(image)
    if not known:
        return
    also = {symbol.name for other in others for symbol in other.symbols if symbol.section}
    needed = {symbol.name for symbol in elf.symbols if not symbol.section and symbol.name and symbol.binding != "weak"}
    missing = sorted(needed - known - also - {"_GLOBAL_OFFSET_TABLE_"})
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UsageError(
            f"needs {', '.join(missing[:_SHOWN])}{more}, which {image.recipe.name} does not have",
            where=str(file),
            mend="give the module that has it first, or with --with",
        )


def _kernel_symbols(image: Image) -> frozenset[str]:
    """Return every symbol of the vmlinux and every export of the kernel's own modules; empty without Module.symvers."""
    symvers = image.headers.objects / "Module.symvers" if image.headers else None
    exported = _symvers(symvers) if symvers and symvers.is_file() else frozenset()
    return exported | _defined(image.vmlinux) if exported else frozenset()


@lru_cache(maxsize=8)
def _defined(vmlinux: Path) -> frozenset[str]:
    return frozenset(symbol.name for symbol in Elf.read_cached(vmlinux).symbols if symbol.section)


@lru_cache(maxsize=8)
def _symvers(path: Path) -> frozenset[str]:
    """Return the names of `CRC NAME MODULE TYPE` lines."""
    return frozenset(line.split("\t")[1] for line in path.read_text().splitlines() if line.count("\t") > 1)


def assign_parameters_to_modules(given: Mapping[str, str], elves: Mapping[str, Elf]) -> dict[str, list[str]]:
    """Return the parameters of each module as words for insmod, from `NAME=VALUE` and `MODULE.NAME=VALUE`.

    Raises UsageError for a parameter that no module has.
    """
    words: dict[str, list[str]] = {module: [] for module in elves}
    for key, value in given.items():
        module, _, parameter = key.rpartition(".")
        having = [each for each, elf in elves.items() if parameter in parameters(elf) and module in ("", each)]
        if not having:
            known = sorted({each for elf in elves.values() for each in parameters(elf)})
            mend = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"no parameter is named {key!r}", where=", ".join(elves), mend=mend)
        for each in having:
            words[each].append(f"{parameter}={_quoted(value)}")
    return words


def _quoted(value: str) -> str:
    """Return a value as the kernel parses it: quotes keep one with spaces whole (next_arg(), lib/cmdline.c, 6.1).

    A value that has quotes is quoted by the user already.
    """
    return f'"{value}"' if '"' not in value and any(map(str.isspace, value)) else value

"""The table of kernel mutants: the bugs of one patch; a kernel with that patch enables one at a time, by number."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.core import paths
from harness.core.errors import RecipeError, UsageError
from harness.images.recipe_files import fragment_or_patch_path
from harness.images.vm_recipe import Recipe

# The patch that adds the bugs; its table has the same name and is in the same directory.
PATCH = "kernel-mutants"
# The parameter on the kernel's command line, and its file in the booted kernel (core_param(), kernel/params.c, 6.1).
PARAMETER = "kernel_mutant"
PARAMETER_FILE = f"/sys/module/kernel/parameters/{PARAMETER}"

# Numbers from 101 on undo a mainline fix. Numbers from 201 on are rules of older kernels, which are not bugs.
_PAST = 101
_RULES = 201

_HEADER = "include/linux/kernel_mutant.h"
_USE = re.compile(r"\bKERNEL_MUTANT(?:_FOURTH)?\((\d+)\)")
_FILE = re.compile(r"^\+\+\+ b/(\S+)", re.MULTILINE)


class KernelMutant(BaseModel):
    """One bug.

    `claim` is the claim that a kernel with this bug violates; `cases` are run first, each as `FILE.py::CASE`. The bug
    can have an effect on the architectures in `arch` if the VM has the traits in `requires`; `equivalent` maps an
    architecture to the reason why the bug has no visible effect there. `past` is the mainline commit that the bug
    undoes, with the first version that contains it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    number: int = Field(ge=1)
    name: str
    kind: str
    claim: str
    files: tuple[str, ...] = Field(strict=False, min_length=1)
    arch: tuple[str, ...] = Field(strict=False, min_length=1)
    requires: tuple[str, ...] = Field(default=(), strict=False)
    cases: tuple[str, ...] = Field(default=(), strict=False)
    past: str = ""
    equivalent: Mapping[str, str] = {}

    @property
    def is_older_kernel_rule(self) -> bool:
        """True for a rule of an older kernel; a row with that rule has it for all cases."""
        return self.number >= _RULES

    @property
    def is_past_mainline_bug(self) -> bool:
        """True for a bug that mainline once had."""
        return _PAST <= self.number < _RULES

    def index_of_case(self, named: str) -> int | None:
        """Return the position in `cases` of a case, `FILE.py::TEST[PARAMETER]`; None if the mutant does not name it."""
        test = named.partition("[")[0]
        return next((place for place, case in enumerate(self.cases) if case in (named, test)), None)

    def why_equivalent(self, recipe: Recipe) -> str:
        """Return why the bug has no visible effect on a VM; empty if it can have one."""
        if recipe.arch in self.equivalent:
            return self.equivalent[recipe.arch]
        if recipe.arch not in self.arch:
            return f"{recipe.arch} does not have it"
        lacking = [trait for trait in self.requires if not getattr(recipe.traits, trait)]
        return f"{recipe.name} has no {lacking[0]}" if lacking else ""

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    mutant: tuple[KernelMutant, ...] = Field(strict=False)


def read_table(path: Path | None = None) -> list[KernelMutant]:
    """Return every bug of the patch, sorted by number. Raises RecipeError, one line with file, key and mend."""
    path = path or fragment_or_patch_path("patches", PATCH).with_suffix(".toml")
    try:
        found = _Table.model_validate(tomllib.loads(path.read_text())).mutant
    except OSError as error:
        raise RecipeError(str(error.strerror), where=path.name, mend="restore it") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"not TOML: {error}", where=path.name, mend="fix the syntax there") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"`{key}`: {first['msg']}", where=path.name, mend="see docs/kernel-mutants.md") from None
    return sorted(found, key=lambda mutant: mutant.number)


def parse_mutants(numbers: str) -> list[KernelMutant]:
    """Return the bugs of a list from the command line, such as `3,17,101-115`; all bugs for an empty list.

    Rules of older kernels are not bugs and are left out. Raises UsageError for a word that is not the number of a bug.
    """
    bugs = {mutant.number: mutant for mutant in read_table() if not mutant.is_older_kernel_rule}
    if not numbers:
        return list(bugs.values())
    found = {}
    for word in numbers.split(","):
        first, _, last = word.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise UsageError(f"{word!r} is not the number of a kernel mutant", mend="write 3 or 3,17 or 101-115")
        wanted = [number for number in range(int(first), int(last or first) + 1) if number in bugs]
        if not wanted:
            raise UsageError(
                f"no kernel mutant has the number {word}", mend="see vm_images/patches/kernel-mutants.toml"
            )
        found.update({number: bugs[number] for number in wanted})
    return list(found.values())


def takes_mutants(recipe: Recipe) -> bool:
    """Return True for a VM whose kernel is built with the patch, or from a tree of the user that has the patch."""
    if recipe.kernel.tree:
        return (paths.PROJECT / Path(recipe.kernel.tree).expanduser() / _HEADER).is_file()
    return PATCH in recipe.kernel.patches


def demand_takes_mutants(recipe: Recipe) -> None:
    """Raise UsageError for a VM whose kernel has no mutants, or whose recipe sets a number itself."""
    if not takes_mutants(recipe):
        raise UsageError(f"{recipe.name} is built without the patch {PATCH}", mend="name a VM that has it with --vm")
    if own := [word for word in recipe.machine.append.split() if word.startswith(f"{PARAMETER}=")]:
        raise UsageError(f"{recipe.name} is booted with {own[-1]}, and a kernel has one mutant", mend="name another VM")


def files_by_number(patch: str) -> dict[int, set[str]]:
    """Return the files of a patch that use each number."""
    found: defaultdict[int, set[str]] = defaultdict(set)
    parts: Sequence[str] = _FILE.split(patch)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        added = [line for line in text.splitlines() if line.startswith("+")]
        for number in (match[1] for line in added for match in _USE.finditer(line)):
            found[int(number)].add(name)
    return dict(found)

"""The TOML file of one VM, read and checked before anything is built."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from harness.core import bounded_toml, paths
from harness.core.architecture import Architecture
from harness.core.architecture_for_recipe import architecture_for_recipe
from harness.core.architecture_table import ARCHITECTURES
from harness.core.errors import RecipeError, UsageError
from harness.core.files import read_regular_file
from harness.images.kernel_defects import KernelDefects
from harness.images.machine_options import Emulator, MachineOptions
from harness.images.recipe_files import demand_fragment_or_patch, files_by_name, tree_of
from harness.images.recipe_strings import CaseName, Compiler, FileName, Flags, Line, PackageName, PackageVersion
from harness.images.recipe_table import RecipeTable

# The code name of a release, or a suite that extends one. The name goes into an apt source list.
_SUITE = re.compile(r"(?=.{1,40}$)[a-z]+(-[a-z]+)*")

Tier = Literal["core", "full"]

_LARGEST_BYTES = 32 << 10
# A recipe as JSON, for the run of a kernel that was given with --kernel.
_REPLACEMENT, _OPTIONS = KERNEL_VARIABLES = ("PINPOINT_GIVEN_KERNEL", "PINPOINT_KERNEL_OPTIONS")


class Kernel(RecipeTable):
    """Where the kernel comes from and how it is made.

    `package` is a Debian package: a `linux-image-*` for `debian-binary`, a `linux-source-*` for `debian-source`. With
    `version`, the kernel is the upstream tarball of a source package such as `linux`, of exactly that version, without
    Debian's patches: a mirror keeps tarballs of releases whose `linux-source-*` is gone. `suite` is the Debian suite of
    the package if that is not the host's release: another release, or a `RELEASE-backports`. `tree` is the user's own
    kernel source. `config` and `patches` name files under `vm_images/config/` and `vm_images/patches/`, in order.
    `not_for_trees` are those of `config` whose options other versions lack: a tree of --kernel is built without them.
    `sibling` names the VM whose kernel has the same functions at other addresses; values computed for that kernel are
    tried on this one. `compiler` is one such as `gcc-14`, from the release of `suite`, for modules of a kernel that was
    configured with a newer compiler than the host has; or one such as `clang-19`, the host's, for a kernel from source
    and its modules. `debug_symbols` also fetches the package with the debug symbols of a binary kernel, and
    `--debug-symbols` sets it for all of them. `given` and `config_file` are no keys of a recipe; `--kernel` and
    `--config` set them: the files of a kernel that was built elsewhere (source `given`), and the whole configuration of
    a tree.
    """

    source: Literal["debian-binary", "debian-source", "tree", "given"]
    package: PackageName = ""
    version: PackageVersion = ""
    suite: Line = ""
    tree: Line = ""
    given: tuple[Line, ...] = Field(default=(), strict=False)
    config_file: Line = ""
    config: tuple[FileName, ...] = Field(default=(), strict=False)
    not_for_trees: tuple[FileName, ...] = Field(default=(), strict=False)
    patches: tuple[FileName, ...] = Field(default=(), strict=False)
    cflags: Flags = ""
    compiler: Compiler = ""
    sibling: Line = ""
    debug_symbols: bool = False

    @model_validator(mode="after")
    def _names_its_source(self) -> Kernel:
        needed = self.source if self.source in ("tree", "given") else "package"
        if not getattr(self, needed):
            raise ValueError(f"source {self.source!r} needs `{needed}`")
        if self.source == "debian-binary" and (self.config or self.patches or self.cflags):
            raise ValueError("a binary kernel takes no config, patches or cflags")
        if self.debug_symbols and self.source != "debian-binary":
            raise ValueError("debug_symbols is for source 'debian-binary'; other kernels have the linker's symbols")
        if not set(self.not_for_trees) <= set(self.config):
            raise ValueError("not_for_trees names what is not in config")
        if self.version and self.source != "debian-source":
            raise ValueError("version is for source 'debian-source'; another source has one version")
        if self.compiler.startswith("clang") and self.source == "debian-binary":
            raise ValueError("a clang is for kernels built from source; Debian builds its kernels with gcc")
        if self.compiler.startswith("gcc") and not self.suite:
            raise ValueError(f"compiler {self.compiler!r} needs the suite that has it")
        if self.suite and self.source == "tree":
            raise ValueError("a tree of your own has no suite")
        if self.suite and not _SUITE.fullmatch(self.suite):
            raise ValueError(f"suite {self.suite!r} is not named like a Debian suite: bullseye, bookworm-backports")
        return self


class Traits(RecipeTable):
    """Properties of a VM that cases may require; each is proved in the booted guest before the first case."""

    kprobes: bool = True
    kaslr: bool = False
    kernel_function_sections: bool = False
    module_function_sections: bool = False
    module_text_sections: bool = True
    module_initializers_freed: bool = True
    module_stubs: bool = False
    optimized_kprobes: bool = False
    optimized_module_kprobes: bool = True
    jumps_displace_instructions: bool = False
    ftrace_kprobes: bool = False
    traced_entry_kprobes: bool = True
    entry_landing_pad: bool = False
    data_symbols: bool = False
    cold_halves: bool = False
    cfi_preambles: bool = False
    llvm_suffixes_omitted: bool = False
    livepatch: bool = False
    section_fd_pins: bool = False
    shared_loads: bool = False
    uprobes: bool = False
    programs_32bit: bool = False


class BootNoise(RecipeTable):
    """One complaint that this kernel prints at boot: `place` is the exact source location, `why` the explanation."""

    place: Line
    why: Line


class Recipe(RecipeTable):
    """One VM; `tier` is `core` for a VM of every run, `full` for a VM that runs only on request.

    `test_cells` are the cases that `./pinpoint test` runs on a VM of the tier `full`, with their mutants: `FILE.py` for
    a file of `cases/`, `FILE.py::TEST` for one test in it, `FILE.py::TEST[PARAMETER]` for one case of a test. A VM with
    `kernel_mutants` runs only when it is named, and in `run --kernel-mutants` if no VM is named.
    """

    name: FileName
    arch: Line
    describe: Line
    tier: Tier = "core"
    test_cells: tuple[CaseName, ...] = Field(default=(), strict=False)
    kernel_mutants: bool = False
    kernel: Kernel
    machine: MachineOptions = MachineOptions()
    traits: Traits = Traits()
    boot_noise: tuple[BootNoise, ...] = Field(default=(), strict=False)
    defects: KernelDefects = KernelDefects()

    @model_validator(mode="after")
    def _known_architecture(self) -> Recipe:
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"arch {self.arch!r} is none of {', '.join(sorted(ARCHITECTURES))}")
        if self.machine.boot == "pvh" and not self.architecture.qemu_machine.pvh:
            raise ValueError(f"machine.boot 'pvh' is not for {self.arch}")
        lone = self.architecture.qemu_machine.one_cpu_because
        if self.machine.cpus > 1 and lone and not self.machine.cpu:
            raise ValueError(f"machine.cpus {self.machine.cpus} is not for {self.arch}: {lone}")
        if self.test_cells and self.tier != "full":
            raise ValueError("test_cells is for tier 'full'; every cell of a core VM is in `./pinpoint test`")
        if self.kernel.sibling == self.name:
            raise ValueError("kernel.sibling is the VM itself; name another")
        return self

    @property
    def architecture(self) -> Architecture:
        """The entry of the architecture table for this VM, with its compiler, its CPU, and the QEMU that was found."""
        qemu = self.machine.emulator or Emulator(program="", version=(0, 0))
        return architecture_for_recipe(
            self.arch,
            compiler=self.kernel.compiler,
            cpu=self.machine.cpu,
            qemu_program=qemu.program,
            qemu_version=qemu.version,
        )


def with_debug_symbols(recipe: Recipe) -> Recipe:
    """Return the recipe with `kernel.debug_symbols`; only a binary kernel lacks the linker's symbols."""
    wanted = recipe.kernel.source == "debian-binary"
    return recipe.model_copy(update={"kernel": recipe.kernel.model_copy(update={"debug_symbols": wanted})})


def load(path: Path) -> Recipe:
    """Read one recipe. Raises RecipeError, one line with file, key and mend."""
    try:
        raw = _toml(path)
    except OSError as error:
        raise RecipeError(str(error.strerror), where=str(path), mend="give the path of a recipe") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 at byte {error.start}", where=path.name, mend="save it as UTF-8") from None
    except ValueError as error:
        what = f"not TOML: {str(error)[:200] or type(error).__name__}"
        raise RecipeError(what, where=path.name, mend="fix the syntax there") from None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise _explained(path, error) from None
    if recipe.kernel.given or recipe.kernel.config_file:
        raise RecipeError("`kernel.given` and `kernel.config_file` are no keys", where=path.name, mend="use --kernel")
    if recipe.machine.emulator is not None:
        raise RecipeError("unknown key `machine.emulator`", where=path.name, mend="name a version: qemu = '>= 11'")
    if recipe.name != path.stem:
        raise RecipeError(f"name is {recipe.name!r}", where=path.name, mend=f"make it {path.stem!r}, the file's name")
    for kind in ("config", "patches"):
        for name in getattr(recipe.kernel, kind):
            demand_fragment_or_patch(path, kind, name)
    _demand_sibling(path, recipe.kernel.sibling)
    _demand_path(path, recipe.kernel.tree)
    if not recipe.kernel.tree:
        return recipe
    tree = tree_of(path) / Path(recipe.kernel.tree).expanduser()
    return recipe.model_copy(update={"kernel": recipe.kernel.model_copy(update={"tree": str(tree)})})


def _toml(path: Path) -> dict[str, Any]:
    """Return the tables of a recipe. Raises OSError for a file that is not regular or too large, and ValueError."""
    return bounded_toml.loads(read_regular_file(path, _LARGEST_BYTES).decode())


def _explained(path: Path, error: ValidationError) -> RecipeError:
    """Return pydantic's first error as a RecipeError; errors about unknown keys come first."""
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])[:200]
    if first["type"] == "extra_forbidden":
        return RecipeError(f"unknown key `{key}`", where=path.name, mend="remove it or see docs/adding-a-vm.md")
    if first["type"] == "missing":
        return RecipeError(f"key `{key}` is missing", where=path.name, mend="add it; see docs/adding-a-vm.md")
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")[:300]
        return RecipeError(f"`{key}`: {message}" if key else message, where=path.name, mend="see docs/adding-a-vm.md")
    wanted = first["msg"].removeprefix("Input ")
    return RecipeError(f"`{key}` {wanted}", where=path.name, mend=f"it is {repr(first['input'])[:200]} now")


def _demand_sibling(path: Path, name: str) -> None:
    """Raise RecipeError if the sibling has no recipe in the same directory, or in the own tree."""
    if name and name not in (known := files_by_name(path.parent)):
        others = ", ".join(other for other in known if other != path.stem)
        raise RecipeError(f"kernel.sibling names {name!r}", where=path.name, mend=f"one of: {others}")


def _demand_path(path: Path, tree: str) -> None:
    """Raise RecipeError if the host cannot look up the path of a tree; a missing directory is allowed."""
    try:
        (tree_of(path) / Path(tree).expanduser()).resolve().stat()
    except FileNotFoundError:
        return  # sources.of_recipe() reports it
    except (OSError, RuntimeError, ValueError) as error:
        what = f"kernel.tree is {tree[:80]!r}: {(isinstance(error, OSError) and error.strerror) or error}"
        raise RecipeError(what, where=path.name, mend="name the directory of a kernel source") from None


def load_all(directory: Path = paths.RECIPES) -> dict[str, Recipe]:
    """Return every recipe in the directory, and in the own tree, by name."""
    return {name: load(path) for name, path in files_by_name(directory).items()}


def select(
    words: Sequence[str],
    directory: Path = paths.RECIPES,
    *,
    architectures: Sequence[str] = (),
    matrix: Tier | None = None,
    test_cells: bool = False,
) -> list[Recipe]:
    """Return the recipes selected by name (`a` or `a,b`, as in `--vm`), by architecture, or by tier.

    Without a name, `architectures` selects VMs of both tiers, or only core VMs if `matrix` is `core`. Without an
    architecture either, `matrix` selects the tiers, by default the core VMs, and `test_cells` adds the VMs that have
    `test_cells`. VMs with `kernel_mutants` are selected by name alone. Raises UsageError on an unknown name or
    architecture.
    """
    chosen = dict.fromkeys(name for word in words for name in word.split(",") if name)
    archs = {name for word in architectures for name in word.split(",") if name}
    if unknown := sorted(archs - ARCHITECTURES.keys()):
        raise UsageError(f"no architecture named {unknown[0]!r}", mend=f"one of: {', '.join(sorted(ARCHITECTURES))}")
    if chosen and (archs or matrix):
        raise UsageError("--vm names VMs, --arch and --matrix choose some", mend="give one or the other")
    if not chosen:
        tiers = {"core"} if (matrix or ("full" if archs else "core")) == "core" else {"core", "full"}
        recipes = [each for each in load_all(directory).values() if not each.kernel_mutants]
        found = [each for each in recipes if not archs or each.arch in archs]
        found = [each for each in found if each.tier in tiers or (test_cells and each.test_cells)]
        if not found:
            raise UsageError(f"no VM of {', '.join(sorted(archs))} is in the matrix", mend=f"see {paths.PROGRAM} list")
        return found
    known = files_by_name(directory)
    for name in chosen:
        if name not in known:
            raise UsageError(f"no VM named {name!r}", mend=f"one of: {', '.join(known)}")
    return [_replaced(name) or load(known[name]) for name in chosen]


def replace_in_this_run(recipe: Recipe, options: Sequence[str] = ()) -> None:
    """Make `select` return this recipe for its name, in this process and in the processes that it starts.

    `options` are the options that name its kernel, for the commands that are printed.
    """
    os.environ[_REPLACEMENT] = recipe.model_dump_json()
    os.environ[_OPTIONS] = "".join(f" {shlex.quote(word)}" for word in options)


def kernel_options_of_this_run() -> str:
    """Return the options that name the kernel of this run, each after a space; "" if it is the recipe's own."""
    return os.environ.get(_OPTIONS, "")


def _replaced(name: str) -> Recipe | None:
    text = os.environ.get(_REPLACEMENT)
    recipe = Recipe.model_validate_json(text) if text else None
    return recipe if recipe and recipe.name == name else None

"""The task of one `./pinpoint verify`, and all checks of it that are possible before a guest is started."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.core.elf import Elf
from harness.core.errors import PinpointError, UsageError
from harness.core.files import read_regular_file
from harness.images import (
    appended_module_signature,
    external_build,
    external_ko_elf_check,
    modinfo_and_load_checks,
    packaged_kernel_module_by_name,
    systemtap,
)
from harness.images.build_context import BuildContext
from harness.images.external_ko_decompressed_copy import private_copy
from harness.images.image import Image
from harness.images.vm_recipe import Recipe
from harness.landing.site import Site

_EXPECTED = re.compile(r"(?:(?P<module>\w+):)?(?P<symbol>[A-Za-z_.$][\w.$]*)(?:\+(?P<offset>0x[0-9a-fA-F]+|\d+))?")
# Functions with which a module can register a probe after its initializer. A module that uses one gets a longer wait.
_LATER = re.compile(
    r"(?:queue_(?:delayed_)?work\w*|mod_delayed_work\w*|schedule_\w+|mod_timer\w*|add_timer\w*|hrtimer_start\w*"
    r"|kthread_create\w*|wake_up_process|msleep\w*|register_\w*notifier\w*|call_usermodehelper\w*|async_schedule\w*"
    r"|kthread_\w*queue\w*|system_\w*wq|irq_work_queue|tasklet_\w+|debugfs_create_\w+|proc_create\w*|call_rcu)$"
)


# A script is text that a person wrote.
_LARGEST_SCRIPT = 1 << 20


@dataclass(frozen=True)
class VerifyRequest:
    """One call of the command.

    `files` are modules, sources or directories, `modules_loaded_first` are modules to load before them; `script` is a
    systemtap script, or the path of one that ends in .stp.
    """

    files: Sequence[Path] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    modules_loaded_first: Sequence[str] = ()
    loader: str = "insmod"
    settle_seconds: float | None = None
    expected_sites: Sequence[str] = ()
    command: str = ""
    packages: Sequence[str] = ()
    system_map: Path | None = None
    remove_targets: bool = False
    script: str = ""


@dataclass(frozen=True)
class ModuleToLoad:
    """One module: its name in the kernel, our copy of its file, and its parameters as words.

    `judged` is false for a module that is only loaded for others. `build_warnings` is what building it printed.
    `registers_in_initializer_only` is true if it is known that it registers nothing later, whatever its file could do.
    """

    name: str
    copied_file: Path
    file: Path
    parameter_words: Sequence[str] = ()
    judged: bool = True
    build_warnings: Sequence[str] = ()
    registers_in_initializer_only: bool = False

    @property
    def elf(self) -> Elf:
        """The ELF file of the copy."""
        return Elf.read_cached(self.copied_file)

    @property
    def registers_later(self) -> bool:
        """True if the module can register something after its initializer has returned."""
        return not self.registers_in_initializer_only and any(
            not symbol.section and _LATER.match(symbol.name) for symbol in self.elf.symbols
        )


def demand_architecture(wanted: VerifyRequest, recipe: Recipe, directory: Path) -> None:
    """Demand that all built modules are for the VM's architecture, which can be checked before the image is built.

    Raises UsageError with a message of one line.
    """
    first = [path for word in wanted.modules_loaded_first if (path := _path(word))]
    for file in [*wanted.files, *first]:
        if not (file.is_dir() or file.suffix == ".c"):
            _read(file, private_copy(file, directory), recipe)


def modules_to_load(
    wanted: VerifyRequest, image: Image, build_context: BuildContext, directory: Path
) -> list[ModuleToLoad]:
    """Return the modules to load, in order, each copied to `directory` and checked against the image's kernel.

    Raises UsageError with a message of one line for a wrong file or parameter, BuildError or HostError when a build
    fails.
    """
    own = [
        replace(_checked(built, image, directory), file=_named(built, file))
        for file in wanted.files
        for built in _built(file, image, build_context, directory)
    ]
    first: list[ModuleToLoad] = []
    for word in wanted.modules_loaded_first:
        first += _also(word, image, build_context, directory)
    found = [*_each_once(first), *_by_dependence(own)]
    for index, module in enumerate(found):
        others = [other.elf for other in found if other is not module]
        modinfo_and_load_checks.demand_undefined_symbols_provided(module.elf, module.file, image, others)
        if module.name in [earlier.name for earlier in found[:index]]:
            raise UsageError(f"two modules are named {module.name}", where=str(module.file), mend="give it once")
    words = modinfo_and_load_checks.assign_parameters_to_modules(
        wanted.parameters, {each.name: each.elf for each in found if each.judged}
    )
    return [
        ModuleToLoad(each.name, each.copied_file, each.file, words.get(each.name, ()), each.judged) for each in found
    ]


def compile_systemtap_script(
    wanted: VerifyRequest, image: Image, build_context: BuildContext, directory: Path
) -> ModuleToLoad | None:
    """Return the module of the request's systemtap script, compiled into `directory`; None without a script.

    Raises UsageError for a file that cannot be read, and what compiling raises.
    """
    if not wanted.script:
        return None
    file = Path(wanted.script)
    text, name, where = wanted.script, "script", "--stap"
    if file.suffix == ".stp":
        name, where = file.stem, str(file)
        try:
            text = read_regular_file(file, _LARGEST_SCRIPT).decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise UsageError(reason, where=where, mend="give a script's text or the path of a .stp file") from None
    built = systemtap.compile_script(text, name, where, image, build_context, directory)
    return ModuleToLoad(systemtap.module_name(name), built.module, Path(where), build_warnings=built.warnings)


def parse_expected_site(word: str) -> Site:
    """Parse `SYMBOL`, `SYMBOL+OFFSET` or `MODULE:SYMBOL+OFFSET` into a site. Raises UsageError."""
    match = _EXPECTED.fullmatch(word)
    if not match:
        raise UsageError(
            f"{word!r} is no SYMBOL+OFFSET", where="--expect", mend="as vfs_read+0x4 or ext4:ext4_sync_file"
        )
    return Site(match["symbol"], int(match["offset"] or "0", 0), match["module"] or "")


def _built(file: Path, image: Image, build_context: BuildContext, directory: Path) -> list[Path]:
    """Build the modules of a directory or of one source file; a file that is a module is returned as it is."""
    if file.is_dir() or file.suffix == ".c":
        return external_build.build(file, image, build_context, directory)
    return [file]


def _named(built: Path, given: Path) -> Path:
    """The path that messages name: a file that was built is named as if it were next to its source."""
    return given if built == given else (given if given.is_dir() else given.parent) / built.name


def _checked(file: Path, image: Image, directory: Path, *, judged: bool = True) -> ModuleToLoad:
    copy = private_copy(file, directory)
    elf = _read(file, copy, image.recipe)
    modinfo_and_load_checks.demand_vermagic(elf, file, image)
    appended_module_signature.demand_readable_signature(copy, file, image)
    return ModuleToLoad(modinfo_and_load_checks.module_name(elf, file), copy, file, (), judged)


def _read(file: Path, copy: Path, recipe: Recipe) -> Elf:
    """Return the ELF of a copy. Raises UsageError with the path of the original file."""
    try:
        elf = external_ko_elf_check.read_module_elf(copy, recipe.architecture)
        modinfo_and_load_checks.module_name(elf, file)
    except UsageError as error:
        raise UsageError(error.what, where=str(file), mend=error.mend) from None
    except PinpointError as error:
        raise UsageError(error.what, where=str(file), mend="build it again") from None
    return elf


def _also(word: str, image: Image, build_context: BuildContext, directory: Path) -> list[ModuleToLoad]:
    """Return a module to load first and the modules that it needs.

    `word` is the path of a file or a directory, which is built, or the name of a kernel module.
    """
    if path := _path(word):
        built = _built(path, image, build_context, directory)
        return [replace(_checked(each, image, directory, judged=False), file=_named(each, path)) for each in built]
    found = packaged_kernel_module_by_name.obtain_module_with_dependencies(word, image, build_context)
    return [_checked(file, image, directory, judged=False) for file in found]


def _path(word: str) -> Path | None:
    """Return the path of a word of --with; None for the name of a kernel module."""
    path = Path(word)
    return path if "/" in word or path.suffix in (".ko", ".xz", ".zst", ".gz", ".c") else None


def _each_once(found: Sequence[ModuleToLoad]) -> list[ModuleToLoad]:
    return list({each.name: each for each in found}.values())


def _by_dependence(found: Sequence[ModuleToLoad]) -> list[ModuleToLoad]:
    """Return the modules in the given order, except that each comes after those that its `depends` field names."""
    left, ordered = list(found), []
    while left:
        names = {each.name for each in left}
        ready = next((e for e in left if not names & set(modinfo_and_load_checks.depends(e.elf)) - {e.name}), left[0])
        left.remove(ready)
        ordered.append(ready)
    return ordered

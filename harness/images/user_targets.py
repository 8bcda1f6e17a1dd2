"""The program and the DSOs of probes/user, the targets of probes in user space, each in several builds.

The files are linked dynamically against the C library that the guest's userland has. They are built only for a VM whose
recipe has the trait `uprobes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.core import paths
from harness.core.architecture import Architecture, CompatPrograms
from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.events import ProgressStep
from harness.core.files import sha256, sha256_of_matching_files
from harness.core.process import run
from harness.images.build_context import BuildContext
from harness.images.kbuild import compiler_and_linker_versions, run_logged
from harness.images.vm_recipe import Recipe

KIND = "user"

RUNNER = "pinpoint_runner"
FIRST_LIBRARY = "libpinpoint_one.so"
SECOND_LIBRARY = "libpinpoint_two.so"
PRELOADED = "libpinpoint_preloaded.so"
PAGES = "pinpoint_pages"
PERF = "pinpoint_perf"
PLAIN = "plain"
STATIC = "static"
STRIPPED = "stripped"
COMPAT = "32bit"
_BUILD_S = 120.0
_FLAGS = ("-std=gnu11", "-O2", "-fno-toplevel-reorder", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=sha1")
# dladdr() names only what a file exports, and a program exports nothing unless asked.
_EXPORTED = "-Wl,--export-dynamic-symbol=pinpoint_runner_leaf"
_RUNNER_SOURCES = ("runner", "function_lookup", "runner_functions", "traced", "spin")


@dataclass(frozen=True)
class Variant:
    """One build of the program and the DSOs: the flags that it adds to the plain build's flags."""

    flags: tuple[str, ...] = ()


# Builds of the same source with the same functions. In `sections` the linker drops unused functions, in `reordered` it
# sorts functions by name, `rebuilt` has longer functions, `based` is linked at another base address.
VARIANTS: Mapping[str, Variant] = {
    PLAIN: Variant(),
    "sections": Variant(("-ffunction-sections", "-Wl,--gc-sections")),
    "reordered": Variant(("-ffunction-sections", "-Wl,--sort-section=name")),
    "rebuilt": Variant(("-DPINPOINT_OTHER_LAYOUT",)),
    "based": Variant(("-Wl,-Ttext-segment=0x240000",)),
}


def key_parts(recipe: Recipe, build_context: BuildContext) -> list[str]:  # noqa: ARG001 - ImagePartBuilder requires it
    """Return every input of the files, for the store key; all kernels of an architecture share the files."""
    narrow = recipe.architecture.compat_programs
    compilers = [compiler_and_linker_versions(recipe.architecture), *([_version(narrow)] if narrow else [])]
    flags = " ".join((*recipe.architecture.program_flags, *recipe.architecture.static_program_flags))
    return [recipe.arch, sha256_of_matching_files(_sources()), *compilers, flags, sha256(Path(__file__))]


def _version(narrow: CompatPrograms) -> str:
    """Return the version of the compiler and the digest of the C library of 32-bit programs."""
    answer = run([f"{narrow.cross_prefix}gcc", "--version"], deadline=Deadline.after(_BUILD_S))
    library = sha256(Path(narrow.library_directory) / "libc.so.6")
    return f"{answer.output.partition(chr(10))[0]} {library} {narrow.compiler_flags}"


def obtain(recipe: Recipe, build_context: BuildContext, parts: Sequence[str]) -> Mapping[str, Path]:
    """Return every file that a guest needs, by its name there: `user/plain/pinpoint_runner`, `pinpoint_pages`.

    Raises BuildError with the log when a file does not build.
    """
    job = _Job(recipe.architecture)
    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)
    variants = {f"user/{path.relative_to(entry.path)}": path for path in _built(entry.path)}
    return variants | {name: entry.path / name for name in (PAGES, PERF)}


def _built(root: Path) -> list[Path]:
    """Return the files of all variants, without the separate symbol tables, which stay on the host."""
    wanted = (RUNNER, FIRST_LIBRARY, SECOND_LIBRARY, PRELOADED)
    libraries = (root / COMPAT).glob("l*.so.*")
    return sorted([*libraries, *(path for path in root.glob("*/*") if path.name in wanted and not path.is_symlink())])


def _sources() -> Path:
    return paths.PROBES / "user"


@dataclass(frozen=True)
class _Job:
    """Build of one architecture's files into a store entry."""

    architecture: Architecture

    def build(self, entry: Path, _step: ProgressStep) -> Mapping[str, Any]:
        """Compile and link each variant, and make the stripped variant from the plain one."""
        self._log.unlink(missing_ok=True)
        for name, variant in VARIANTS.items():
            self._variant(entry / name, variant, self.architecture.cross_prefix)
        if self.architecture.compat_programs:
            self._narrow(entry / COMPAT, self.architecture.compat_programs)
        self._gcc(entry / PLAIN / PRELOADED, ["preloaded"], "-fPIC", "-shared")
        (entry / STATIC).mkdir()
        self._gcc(
            entry / STATIC / RUNNER, _RUNNER_SOURCES, "-DPINPOINT_STATIC", *self.architecture.static_program_flags
        )
        for name, source in ((PAGES, "mapped_pages_reader"), (PERF, "perf")):
            self._gcc(entry / name, [source], "-static", "-s")
        for name in (RUNNER, FIRST_LIBRARY, SECOND_LIBRARY):
            self._strip(entry, name)
        return {"build_ids": {str(path.relative_to(entry)): Elf.read(path).build_id for path in _built(entry)}}

    @property
    def _log(self) -> Path:
        return paths.cache() / "logs" / f"user-{self.architecture.name}.log"

    def _narrow(self, directory: Path, narrow: CompatPrograms) -> None:
        """The plain build as 32-bit programs, with the C library and the dynamic linker that they need."""
        loader = f"-Wl,--dynamic-linker=/tmp/{KIND}/{directory.name}/{narrow.dynamic_linker}"
        self._variant(directory, Variant((loader, *narrow.compiler_flags)), narrow.cross_prefix)
        for name in (narrow.dynamic_linker, "libc.so.6"):
            (directory / name).write_bytes((Path(narrow.library_directory) / name).read_bytes())

    def _variant(self, directory: Path, variant: Variant, prefix: str) -> None:
        directory.mkdir()
        gcc = partial(self._gcc, prefix=prefix)
        shared = (*variant.flags, "-fPIC", "-shared")
        one = (f"-Wl,--version-script,{_sources() / 'probed_library.map'}", f"-Wl,-soname,{FIRST_LIBRARY}")
        gcc(directory / FIRST_LIBRARY, ["probed_library"], *shared, *one)
        gcc(
            directory / SECOND_LIBRARY,
            ["library_calling_through_plt"],
            *shared,
            f"-Wl,-soname,{SECOND_LIBRARY}",
            after=[directory / FIRST_LIBRARY],
        )
        linked = (*variant.flags, "-fPIE", "-pie", "-Wl,-rpath,$ORIGIN", _EXPORTED)
        gcc(directory / RUNNER, _RUNNER_SOURCES, *linked, after=[directory / FIRST_LIBRARY, directory / SECOND_LIBRARY])

    def _gcc(
        self,
        output: Path,
        sources: list[str] | tuple[str, ...],
        *flags: str,
        after: list[Path] | None = None,
        prefix: str | None = None,
    ) -> None:
        files = [_sources() / f"{source}.c" for source in sources]
        maps = f"-ffile-prefix-map={_sources()}=probes/user"
        own = self.architecture.program_flags if prefix in (None, self.architecture.cross_prefix) else ()
        prefix = self.architecture.cross_prefix if prefix is None else prefix
        self._run([f"{prefix}gcc", *_FLAGS, maps, *own, *flags, "-o", output, *files, *(after or [])])

    def _strip(self, entry: Path, name: str) -> None:
        """Make a stripped copy and two copies of its symbol table, for .gnu_debuglink (.debug/) and for .build-id/."""
        whole, stripped = entry / PLAIN / name, entry / STRIPPED / name
        debug = entry / STRIPPED / ".debug" / f"{name}.debug"
        debug.parent.mkdir(parents=True, exist_ok=True)
        objcopy = f"{self.architecture.cross_prefix}objcopy"
        self._run([objcopy, "--only-keep-debug", whole, debug])
        self._run([objcopy, "--strip-all", f"--add-gnu-debuglink={debug}", whole, stripped])
        build_id = Elf.read(whole).build_id
        by_id = entry / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
        by_id.parent.mkdir(parents=True, exist_ok=True)
        by_id.write_bytes(debug.read_bytes())

    def _run(self, argv: list[str | Path]) -> None:
        run_logged(argv, f"building {KIND} targets", self._log, deadline=Deadline.after(_BUILD_S), nice=0)

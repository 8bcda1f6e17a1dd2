"""systemtap scripts, translated and compiled on the host for one image's kernel, by a newer suite's stap."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import BuildError, HostError, UsageError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.images import confined_build, debian_suite_host_programs, debug_information_tree
from harness.images.build_context import BuildContext
from harness.images.debian_suite_host_programs import WantedSuitePrograms
from harness.images.image import Image
from harness.images.kbuild import run_logged
from harness.images.store import Entry

KIND = "systemtap"
# Debian 12's stap 4.8 does not compile for 6.1.192 (tried); 5.1 does, with the host's compiler.
SUITE = "trixie"
RUNTIME_PACKAGE = "systemtap-runtime"
_TAPSET, _RUNTIME = "usr/share/systemtap/tapset", "usr/share/systemtap/runtime"
_TRANSLATOR = WantedSuitePrograms(
    suite=SUITE,
    packages=("systemtap",),
    kept_paths=("usr/bin/stap", _TAPSET, _RUNTIME),
    launcher_commands={"stap": ("usr/bin/stap",)},
)
# relay.c carries the output of every module that stap makes (runtime/transport/relay_v2.c, 5.1).
_NEEDED_CONFIG = "CONFIG_RELAY"
# The runtime looks it up when the module is loaded (runtime/linux/uprobes-inode.c, 5.1).
_NEEDED_FUNCTION = "uprobe_unregister"
_SYSTEM_MAP = "sysroot"
_STATE = "state"
_SCRIPT = "script.stp"
# For a kernel of a small configuration the compiler warns about the runtime of stap 5.1 (gcc 12, 6.1).
_TOLERATED = "-Wno-error=stringop-overread"
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_]+")
_LONGEST_NAME = 40
# stap's words for a kernel or a module of which it finds no DWARF.
_NO_DEBUG_INFORMATION = "debuginfo"
_WARNING, _SEMANTIC_ERROR = "WARNING:", "semantic error:"
_MOST_WARNINGS, _LONGEST_WARNING = 10, 200


class CompiledScript(NamedTuple):
    """The module of a script, and what stap warned about: for example a probe that it left out."""

    module: Path
    warnings: tuple[str, ...]


def compile_script(
    script: str, name: str, where: str, image: Image, build_context: BuildContext, into: Path
) -> CompiledScript:
    """Compile a script to a module named `stap_NAME` in the directory `into`.

    `where` is what an error names. Raises UsageError for a script that stap refuses and for a kernel without relay
    files, HostError when the image has no tree for module builds, and what obtaining systemtap raises.
    """
    if image.headers is None:
        raise HostError("has no tree to build modules against", where=image.recipe.name, mend="build its image again")
    if reason := reason_not_to_compile(image):
        mend = "take a VM with Debian's 6.1 kernel, or build one with debug-info in kernel.config of its recipe"
        raise UsageError(reason, where=image.recipe.name, mend=mend)
    translator = debian_suite_host_programs.obtain_launchers(_TRANSLATOR, build_context, vm=image.recipe.name)
    compiler = _Compiler(image, translator.path, _tree(image, build_context))
    prepared = compiler.prepared(build_context)
    log = paths.cache() / "logs" / f"systemtap-{image.recipe.name}.log"
    log.unlink(missing_ok=True)
    module = module_name(name)
    trees = [image.headers.source, image.headers.objects, compiler.tree, translator.path, prepared.path]
    with (
        build_context.bus.step(image.recipe.name, "script") as step,
        tempfile.TemporaryDirectory(prefix="pinpoint-stap-", dir=into) as directory,
    ):
        scratch = Path(directory)
        (scratch / _SCRIPT).write_text(script)
        shutil.copytree(prepared.path / _STATE, scratch / _STATE)
        step.publish_progress("translating and compiling")
        with confined_build.run_children_confined(trees, scratch, step):
            try:
                compiler.run(scratch, prepared.path / _SYSTEM_MAP, module, log)
            except BuildError as error:
                what = _explained(error.what.removeprefix("stap failed: "), log).replace(f"{scratch}/", "")
                raise UsageError(what, where=where, mend=_mend(what, log)) from None
        copy = into / f"{module}.ko"
        descriptor = confined_build.open_result_descriptor(scratch / copy.name, where)
        with os.fdopen(descriptor, "rb") as stream, copy.open("xb") as out:
            shutil.copyfileobj(stream, out)
    return CompiledScript(copy, _warnings(log))


def _tree(image: Image, build_context: BuildContext) -> Path:
    """Return the tree that stap compiles for, with debug information where it is at hand."""
    assert image.headers is not None
    at_hand = debug_information_tree.is_at_hand(image)
    return debug_information_tree.obtain(image, build_context) if at_hand else image.headers.objects


def _warnings(log: Path) -> tuple[str, ...]:
    lines = log.read_text(errors="replace").splitlines()
    found = [line.removeprefix(_WARNING).strip() for line in lines if line.startswith(_WARNING)]
    return tuple(line[:_LONGEST_WARNING] for line in found[:_MOST_WARNINGS])


def _explained(error: str, log: Path) -> str:
    """Return stap's first error with its cause, which stap prints as another error after it."""
    semantic = [line for line in log.read_text(errors="replace").splitlines() if line.startswith(_SEMANTIC_ERROR)]
    causes = semantic[semantic.index(error) + 1 :] if error in semantic else []
    return f"{error}: {causes[0].removeprefix(_SEMANTIC_ERROR).strip()}" if causes else error


def _mend(error: str, log: Path) -> str:
    """Return what to do about stap's error."""
    if _NO_DEBUG_INFORMATION in error:
        return (
            "run with --debug-symbols, on a VM with Debian's kernel; or build the VM's kernel with the fragment"
            " debug-info; or probe kprobe.function(), which needs none"
        )
    return f"the whole log: {log}"


def reason_not_to_compile(image: Image) -> str:
    """Return why no script can be run on the image's kernel; empty if scripts can be run."""
    if image.config.get(_NEEDED_CONFIG) != "y":
        return f"systemtap needs {_NEEDED_CONFIG}=y, which this kernel lacks"
    if image.recipe.architecture.llvm_suffix:
        return "systemtap compiles with gcc, and this kernel was built by clang"
    # staprun ends with "Can't resolve uprobe_unregister!", also for a script without uprobes (seen on 6.12.117).
    if image.config.get("CONFIG_UPROBES") == "y" and not Elf.read_cached(image.vmlinux).symbols_named(_NEEDED_FUNCTION):
        return f"systemtap 5.1 needs the kernel's {_NEEDED_FUNCTION}(), which has other names since 6.12"
    return ""


def module_name(name: str) -> str:
    """Return the name of a script's module in the kernel."""
    return f"stap_{_NOT_A_NAME.sub('_', name)[:_LONGEST_NAME]}"


@dataclass(frozen=True)
class _Compiler:
    """stap, for one image's kernel; `translator` is the entry of its programs, `tree` what it compiles for."""

    image: Image
    translator: Path
    tree: Path

    def prepared(self, build_context: BuildContext) -> Entry:
        """Return an entry with the kernel's System.map, and with the results of stap's tests of this kernel's tree.

        stap compiles some 200 small files to learn what a kernel has, which takes most of its time. A foreign script
        gets a copy of the results.
        """
        image = self.image
        identity = image.build_id or image.key
        tree = str(self.tree) if debug_information_tree.is_at_hand(image) else ""
        parts = [identity, image.release, self.translator.name, image.recipe.kernel.cflags, tree]
        parts.append(code_sha256(Path(__file__)))
        return build_context.store.obtain(KIND, parts, vm=image.recipe.name, build=self._prepare)

    def _prepare(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        step.publish_progress("testing the kernel's tree, once")
        boot = entry / _SYSTEM_MAP / "boot"
        boot.mkdir(parents=True)
        listing = "".join(_system_map_lines(Elf.read_cached(self.image.vmlinux)))
        for release in self._releases():
            (boot / f"System.map-{release}").write_text(listing)
        log = paths.cache() / "logs" / f"systemtap-tests-{self.image.recipe.name}.log"
        log.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="pinpoint-stap-") as directory:
            scratch = Path(directory)
            (scratch / _SCRIPT).write_text("probe begin { exit() }\n")
            self.run(scratch, entry / _SYSTEM_MAP, "stap_begin", log)
            found = sorted((scratch / _STATE / "cache").rglob("stapconf_*.h"))
            for file in found:
                copy = entry / _STATE / file.relative_to(scratch / _STATE)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        if not found:
            raise BuildError("stap kept no results of its tests", where=str(log), mend="see the log", log=log)
        return {"tests": len(found)}

    def _releases(self) -> set[str]:
        """The release, and the one that the tree names: Debian's trees have the version there."""
        assert self.image.headers is not None
        named = self.image.headers.objects / "include/config/kernel.release"
        return {self.image.release, *([named.read_text().strip()] if named.is_file() else [])}

    def run(self, scratch: Path, sysroot: Path, module: str, log: Path) -> None:
        """Compile the scratch directory's script there. Raises BuildError with stap's or the compiler's first error."""
        assert self.image.headers is not None
        architecture = self.image.recipe.architecture
        files = self.translator / "root"
        variables = [f"CROSS_COMPILE={architecture.cross_prefix}", f"CC={architecture.cross_prefix}gcc"]
        variables.append(f"KCFLAGS={f'{self.image.recipe.kernel.cflags} {_TOLERATED}'.strip()}")
        words: Sequence[str | Path] = [
            self.translator / debian_suite_host_programs.LAUNCHERS / "stap",
            *("-p4", "-a", architecture.kernel_arch, f"--sysroot={sysroot}", "-r", self.tree),
            *(word for variable in variables for word in ("-B", variable)),
            *("-m", module, _SCRIPT),
        ]
        environment = {
            "SYSTEMTAP_TAPSET": str(files / _TAPSET),
            "SYSTEMTAP_RUNTIME": str(files / _RUNTIME),
            "SYSTEMTAP_DIR": str(scratch / _STATE),
            "TMPDIR": str(scratch),
        }
        deadline = Deadline.after(confined_build.BUILD_SECONDS)
        run_logged(words, "stap", log, deadline=deadline, cwd=scratch, env=environment, nice=0)


def _system_map_lines(kernel: Elf) -> Sequence[str]:
    """The kernel's functions as lines of a System.map, in the order of their addresses."""
    code = {name for name, section in kernel.sections_by_name.items() if section.executable}
    functions = [each for each in kernel.symbols if each.section in code and each.kind in ("func", "notype")]
    return [
        f"{each.address:016x} {'t' if each.binding == 'local' else 'T'} {each.name}\n"
        for each in sorted(functions, key=lambda symbol: symbol.address)
    ]

"""Busybox and dropbear cross-built from Debian's source packages, for an architecture without a Debian port."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import paths
from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256, sha256, write_text
from harness.images import kbuild, kernel_config
from harness.images.build_context import BuildContext
from harness.images.cross_c_library import find_library_of_compiler
from harness.images.kbuild import MakeProgress, run_logged
from harness.images.recipe_files import fragment_or_patch_path
from harness.images.store import Entry
from harness.images.vm_recipe import Recipe

KIND = "userland"

_FETCH_S = 600.0
_BUILD_S = 1800.0
_BUSYBOX_CONFIG = "debian/config/pkg/static"
# Public keys only: passwords that are compiled out cannot be guessed or misconfigured. A guest has no login records.
_DROPBEAR_OPTIONS = "#define DROPBEAR_SVR_PASSWORD_AUTH 0\n#define DROPBEAR_SVR_LOCALTCPFWD 0\n"
_DROPBEAR_CONFIGURE = (
    "--disable-zlib",
    "--disable-lastlog",
    "--disable-utmp",
    "--disable-utmpx",
    "--disable-wtmp",
    "--disable-wtmpx",
    "--disable-pututline",
    "--disable-pututxline",
    "--enable-static",
)
# Busybox puts this time into its banner instead of the build time (scripts/kconfig/confdata.c, 1.35).
_EPOCH = {"SOURCE_DATE_EPOCH": "1420070400"}
_CODE = ("userland_source.py", "kernel_config.py", "kbuild.py")


def key_parts(recipe: Recipe, build_context: BuildContext) -> list[str]:
    """Return every input of this userland, for its store key, without fetching or building anything.

    The version of a source package is that of a binary package built from it, which the host's own lists contain.
    """
    versions = [build_context.packages.version(name, "all") for name in ("busybox", "dropbear-bin")]
    code = [code_sha256(Path(__file__).with_name(name)) for name in _CODE]
    return [
        recipe.arch,
        *versions,
        _fragment().read_text(),
        kbuild.compiler_and_linker_versions(recipe.architecture),
        sha256(_static_libc(recipe.architecture)),
        *code,
    ]


def obtain(recipe: Recipe, build_context: BuildContext, parts: Sequence[str]) -> Entry:
    """Return an entry whose `root/` holds busybox with links for its applets, and `usr/sbin/dropbear`, all static.

    Raises BuildError with the log, RecipeError when the options of the busybox fragment cannot be satisfied.
    """
    job = _Job(recipe.architecture, build_context)
    return build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)


def _fragment() -> Path:
    return fragment_or_patch_path("config", "busybox")


def _static_libc(architecture: Architecture) -> Path:
    """Return the static C library with which both programs are linked. Raises HostError if there is none."""
    found = find_library_of_compiler(architecture, "libc.a")
    if found is None:
        compiler = f"{architecture.cross_prefix}gcc"
        raise HostError("finds no static C library", where=compiler, mend="./pinpoint doctor names the missing package")
    return found


@dataclass(frozen=True)
class _Job:
    """Build of one userland into a store entry."""

    architecture: Architecture
    build_context: BuildContext

    def build(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        """Build both programs in a scratch directory and install them below `entry/root`."""
        scratch = paths.cache() / "work" / f"userland-{entry.name}"
        self._log.unlink(missing_ok=True)
        try:
            scratch.mkdir(parents=True)
            busybox = self._unpack("busybox", scratch, step)
            dropbear = self._unpack("dropbear", scratch, step)
            with self.build_context.slots.wait_for_slot() as jobs:
                self._busybox(scratch / "busybox", entry / "root", jobs, step)
                self._dropbear(scratch / "dropbear", entry / "root", jobs, step)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return {"busybox": busybox, "dropbear": dropbear, "warnings": len(kbuild.warnings(self._log))}

    @property
    def _log(self) -> Path:
        return paths.cache() / "logs" / f"userland-{self.architecture.name}.log"

    def _unpack(self, package: str, scratch: Path, step: ProgressStep) -> str:
        """Unpack a source package with Debian's patches to `scratch/PACKAGE`; return its version.

        dpkg-source need not check the uploader's signature: apt has checked every file of the package against the
        hashes in the archive's signed list.
        """
        step.publish_progress(f"fetching {package}'s source")
        source = self.build_context.packages.fetch_source_package(package, deadline=Deadline.after(_FETCH_S))
        self._step(["dpkg-source", "--no-check", "--extract", source.dsc, scratch / package], f"unpacking {package}")
        return source.version

    def _busybox(self, tree: Path, root: Path, jobs: int, step: ProgressStep) -> None:
        """Configure busybox as Debian configures its static build, build it, and install it with a link per applet."""
        wishes = kernel_config.merge([_fragment()])
        make: list[str | Path] = ["make", "-C", tree, f"CROSS_COMPILE={self.architecture.cross_prefix}"]
        config = tree / ".config"
        write_text(config, kernel_config.overlay((tree / _BUSYBOX_CONFIG).read_text(), wishes))
        self._step([*make, "oldconfig"], "configuring busybox")
        kernel_config.check(wishes, kernel_config.parse_set_options(config.read_text()), tree)
        make += [f"-j{jobs}", f"CC={kbuild.compiler_command(self.architecture)}", f"CONFIG_PREFIX={root}"]
        self._step([*make, "install"], "building busybox", MakeProgress(step))

    def _dropbear(self, tree: Path, root: Path, jobs: int, step: ProgressStep) -> None:
        """Configure dropbear for public keys only, and build only the server."""
        step.publish_progress("building dropbear")
        (tree / "localoptions.h").write_text(_DROPBEAR_OPTIONS)
        options = [
            f"--host={self.architecture.gnu_triplet}",
            f"CC={kbuild.compiler_command(self.architecture)}",
            *_DROPBEAR_CONFIGURE,
        ]
        self._step([tree / "configure", *options], "configuring dropbear", cwd=tree)
        self._step(["make", "-C", tree, f"-j{jobs}", "PROGRAMS=dropbear", "STATIC=1"], "building dropbear")
        server = root / "usr/sbin/dropbear"
        server.parent.mkdir(parents=True, exist_ok=True)
        strip = f"{self.architecture.cross_prefix}strip"
        self._step([strip, "-o", server, tree / "dropbear"], "stripping dropbear")

    def _step(
        self, argv: Sequence[str | Path], what: str, output: MakeProgress | None = None, *, cwd: Path | None = None
    ) -> None:
        """Run one command of the build; append its output to the log."""
        on_line = output.process_line if output else None
        run_logged(argv, what, self._log, deadline=Deadline.after(_BUILD_S), cwd=cwd, env=_EPOCH, on_line=on_line)

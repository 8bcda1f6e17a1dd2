"""Kernel source trees: the user's own tree, or a tarball, unpacked once, and patched copies that share files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.core import locks, paths
from harness.core.deadline import Deadline
from harness.core.errors import BuildError, HostError, RecipeError
from harness.core.events import ProgressStep
from harness.core.files import sha256_of_strings
from harness.core.process import run
from harness.images.debian_packages_by_name import Packages
from harness.images.recipe_files import fragment_or_patch_path
from harness.images.vm_recipe import Recipe

# dpkg's architecture name of linux-source packages, which are for all architectures.
_ANY = "all"
_UNPACK_S = 1800.0
_FETCH_S = 1800.0


@dataclass(frozen=True)
class Source:
    """One kernel source tree, which may not be unpacked yet.

    `package` is a linux-source package, or NAME=VERSION for the upstream tarball of a source package. `version` is the
    package's, and `sha256` that of the fetched file. `patches` are the files applied to the tree, in order. `tree` is
    its directory.
    """

    package: str
    version: str
    sha256: str
    patches: tuple[Path, ...]
    tree: Path

    @property
    def key_parts(self) -> list[str]:
        """All properties that distinguish this tree from another, for store keys."""
        return [self.package, self.version, self.sha256, *(patch.read_text() for patch in self.patches)]


def source_tree_of_recipe(recipe: Recipe, packages: Packages) -> Source:
    """Return the source tree of a recipe; a package's tree is named but not fetched.

    Raises RecipeError when the package or the directory does not exist.
    """
    if recipe.kernel.source == "tree":
        return _given(recipe)
    package = recipe.kernel.package
    patches = [fragment_or_patch_path("patches", name) for name in recipe.kernel.patches]
    if recipe.kernel.version:
        exact = f"{package}={recipe.kernel.version}"
        return package_source(exact, recipe.kernel.version, packages.upstream_tarball_hash(exact), patches)
    return package_source(package, packages.version(package, _ANY), packages.hash(package, _ANY), patches)


def package_source(package: str, version: str, sha256: str, patches: Sequence[Path]) -> Source:
    """Return the tree of one package version with patches; the patches' content, not their names, identifies it."""
    # kbuild refuses a directory with a colon or tilde, which Debian versions may contain.
    whole = package.replace("=", "-") if _is_source(package) else f"{package}-{version}"
    base = re.sub(r"[^A-Za-z0-9.+-]", "_", whole)
    suffix = f"-{sha256_of_strings(patch.read_text() for patch in patches)[:12]}" if patches else ""
    return Source(package, version, sha256, tuple(patches), paths.cache() / "sources" / f"{base}{suffix}")


def _given(recipe: Recipe) -> Source:
    """Return the user's own tree, which is built as it is and never written to."""
    tree = (paths.PROJECT / Path(recipe.kernel.tree).expanduser()).resolve()
    where = f"{recipe.name}.toml"
    if not (tree / "Kbuild").is_file():
        raise RecipeError(
            f"kernel.tree is {tree}, which is not a kernel source", where=where, mend="name its directory"
        )
    _demand_clean(tree, recipe)
    if recipe.kernel.patches:
        raise RecipeError("kernel.patches is set for a tree of your own", where=where, mend="apply them there")
    return Source(str(tree), "", listing_digest(tree), (), tree)


def _demand_clean(tree: Path, recipe: Recipe) -> None:
    """Raise RecipeError for a tree that a kernel was built in: make refuses it for a build in another directory.

    These are the files that make looks for (Makefile, outputmakefile, 6.1).
    """
    architecture = recipe.architecture
    generated = f"arch/{architecture.arch_source_directory}/include/generated"
    if any((tree / name).exists() for name in (".config", "include/config", generated)):
        raise RecipeError(
            "a kernel was built in this source tree, and make needs a clean one",
            where=str(tree),
            mend=f"run `make ARCH={architecture.kernel_arch} mrproper` there, which removes the build "
            "results and .config, or give another checkout",
        )


@cache
def listing_digest(tree: Path) -> str:
    """Return one digest over names, sizes and times of a tree's files; a run keeps the first result."""
    lines = []
    for directory, below, names in os.walk(tree):
        below[:] = sorted(name for name in below if name != ".git")
        for name in sorted(names):
            status = os.lstat(f"{directory}/{name}")
            lines.append(f"{directory}/{name} {status.st_size} {status.st_mtime_ns}")
    return sha256_of_strings(lines)


def obtain_source_tree(source: Source, packages: Packages, step: ProgressStep) -> Path:
    """Return the source's tree; create it unless it exists.

    Raises RecipeError when a patch does not apply, HostError and BuildError when the package does not unpack.
    """
    if source.tree.is_dir():
        return source.tree
    plain = package_source(source.package, source.version, source.sha256, ())
    _make_once(plain.tree, step, lambda partial: _unpack_package(source.package, packages, partial, step))
    if source.patches:
        _make_once(source.tree, step, lambda partial: _patch_copy(plain.tree, source.patches, partial, step))
    return source.tree


def _make_once(tree: Path, step: ProgressStep, make: Callable[[Path], None]) -> None:
    """Create `tree` under a temporary name in the same directory and rename it, once among all runs."""
    partial = tree.with_name(f".{tree.name}.partial")
    lock = tree.with_name(f".{tree.name}.lock")
    with locks.hold_lock(lock, deadline=Deadline.after(_UNPACK_S), on_wait=step.publish_progress):
        if tree.is_dir():
            return
        if partial.exists():
            shutil.rmtree(partial)
        try:
            partial.mkdir()
            make(partial)
            partial.rename(tree)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _is_source(package: str) -> bool:
    return "=" in package


def _unpack_package(package: str, packages: Packages, into: Path, step: ProgressStep) -> None:
    """Fetch a package and unpack the kernel source in it to `into`."""
    step.publish_progress(f"fetching {package}")
    if _is_source(package):
        tarball = packages.fetch_upstream_tarball(package, deadline=Deadline.after(_FETCH_S))
        step.publish_progress(f"unpacking {tarball.name}")
        _unpack_tarball(tarball, into)
        return
    deb = packages.fetch(package, _ANY, deadline=Deadline.after(_FETCH_S))
    step.publish_progress(f"unpacking {package}")
    wrapping = into / ".package"
    packages.unpack_deb(deb, wrapping)
    tarballs = list(wrapping.glob("usr/src/*.tar.*"))
    if len(tarballs) != 1:
        raise HostError(f"{package} has {len(tarballs)} source tarballs, not one", mend="name a linux-source-* package")
    _unpack_tarball(tarballs[0], into)
    shutil.rmtree(wrapping)


def _unpack_tarball(tarball: Path, into: Path) -> None:
    options = ["--strip-components=1", "--no-same-owner"]
    _run(["tar", "-x", "-f", tarball, "-C", into, *options], f"unpacking {tarball.name}")


def _patch_copy(plain: Path, patches: Sequence[Path], into: Path, step: ProgressStep) -> None:
    """Copy `plain` to `into` and apply the patches.

    The trees share files by hard links: GNU patch 2.7 writes a new file and renames it, so `plain` does not change.
    """
    step.publish_progress(f"patching {plain.name}: {', '.join(patch.stem for patch in patches)}")
    _run(["cp", "-al", f"{plain}/.", into], f"copying {plain.name}")
    for patch in patches:
        apply_patch(patch, into)


def apply_patch(patch: Path, tree: Path) -> None:
    """Apply one patch without fuzz. Raises RecipeError with the patch and the file on which it fails."""
    options = ["-p1", "--fuzz=0", "--forward", "--batch", "--no-backup-if-mismatch", "--reject-file=-"]
    finished = run(["patch", *options, "-i", patch], cwd=tree, deadline=Deadline.after(60))
    if finished.rc == 0:
        return
    raise RecipeError(
        f"does not apply to {tree.name.strip('.').removesuffix('.partial')}: {_rejection(finished.output)}",
        where=patch.name,
        mend="make it again for this kernel version",
    )


def _rejection(output: str) -> str:
    """Return the file on which patch failed and the first message about that file."""
    file = ""
    for line in output.splitlines():
        if found := re.match(r"patching file '?([^']+)'?", line):
            file = found[1]
        elif "can't find file" in line:
            # patch then quotes the lines of the patch that name the file, each after a vertical bar.
            quoted = re.search(r"^\|\+\+\+ [^/\s]+/(\S+)", output, re.MULTILINE)
            return f"{quoted[1]}: {line}" if quoted else line
        elif re.search(r"FAILED|Reversed|malformed|garbage", line):
            return f"{file}: {line}" if file else line
    return output.strip() or "patch printed nothing"


def _run(argv: Sequence[str | Path], what: str) -> None:
    finished = run(argv, deadline=Deadline.after(_UNPACK_S), nice=10)
    if finished.rc != 0:
        lines = finished.output.strip().splitlines()
        raise BuildError(f"{what} failed: {lines[-1] if lines else f'status {finished.rc}'}")

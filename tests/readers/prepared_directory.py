"""The directory in which a reader's commands run: a clean clone of Pinpoint, a kernel tree, a probe, packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import rpm_archive
import zstandard
from page_commands import CELL, NEW, OLD, OLD_RUN, Command

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages

SOURCE, PACKAGE = "linux-source-6.1", "linux-image-6.12-amd64"
LINKS = frozenset({"scripts", "tools"})
_FETCH_SECONDS = 900.0
_COMMAND_SECONDS = 4 * 3600.0
_PROBE = """#include <linux/kprobes.h>
#include <linux/module.h>

static int on_hit(struct kprobe *probe, struct pt_regs *regs) { return 0; }

/* On x86 the second probe is behind the call that ftrace patches. */
static struct kprobe probes[] = {
	{ .symbol_name = "vfs_read", .pre_handler = on_hit },
#ifdef CONFIG_X86
	{ .symbol_name = "vfs_read", .offset = 5, .pre_handler = on_hit },
#endif
};

static int __init start(void)
{
	int i, ret = 0;

	for (i = 0; i < ARRAY_SIZE(probes) && !ret; i++)
		ret = register_kprobe(&probes[i]);
	return ret;
}

static void __exit stop(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(probes); i++)
		unregister_kprobe(&probes[i]);
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
"""
# The last commit of the tree: each bug breaks what the pages look for.
_BUGS = {
    # The mutants that are registered elsewhere stay in force, so that no cell is a harness error.
    "kernel/kprobes.c": (
        "	void *addr = p->addr;\n",
        "	void *addr = (void *)p->addr + !!p->offset;\n",
    ),
    "arch/parisc/kernel/module.c": (
        "	//value = *(unsigned long *)((value + addend) & ~3); /* why? */\n",
        "	if (!core_kernel_text(value))\n		value += 4;\n",
    ),
}


@dataclass
class PreparedDirectory:
    """`root` is the reader's home; `clone` is the clean clone, in which the commands run."""

    root: Path
    seconds: dict[str, float] = field(default_factory=dict)
    _first_run: str = ""

    @property
    def clone(self) -> Path:
        """The clone of Pinpoint."""
        return self.root / "pinpoint"

    @property
    def tree(self) -> Path:
        """The kernel tree that the pages name `~/linux`."""
        return self.root / "linux"

    def prepare(self) -> None:
        """Make what is missing. The kernel tree is kept, so that a second run of the suite compiles little."""
        shutil.rmtree(self.clone, ignore_errors=True)
        _run("git", "clone", "--quiet", paths.PROJECT, self.clone)
        if not (self.tree / ".git").is_dir():
            self._make_tree()
        (self.clone / "my_probe.c").write_text(_PROBE)

    def run(self, command: Command, page: str) -> tuple[int, str]:
        """Run a command as the page has it; return its exit status and what it printed."""
        self._before(command)
        line = self._with_found_names(command.line)
        began = time.monotonic()
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.clone,
            env=self._environment,
            input=command.typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_COMMAND_SECONDS,
        )
        self.seconds[f"{page}: {command.line}"] = time.monotonic() - began
        self._after(command)
        return done.returncode, done.stdout

    @property
    def _environment(self) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PINPOINT_"))}
        # The images of other runs are reused. Results go into the clone, as for a reader.
        return {**outside, "HOME": str(self.root), "PINPOINT_CACHE": str(paths.cache())}

    def _before(self, command: Command) -> None:
        if "~/linux" in command.line:
            _run("git", "-C", self.tree, "checkout", "--quiet", "--force", command.tree)
        if "pinpoint-known.toml" in command.line:
            self._write_known_failures(self.tree / "ci" / "pinpoint-known.toml")
        if CELL in command.line and not (self.clone / "results/latest/bundles" / CELL.partition("/")[0]).is_dir():
            self._fail_a_cell()
        if "my_probe.ko" in command.line:
            self._build_probe()
        if "linux-image-6.12.deb" in command.line:
            self._make_packages()
        if "kernel-core.rpm" in command.line:
            self._make_rpm_packages()

    def _after(self, command: Command) -> None:
        if command.line.startswith("./pinpoint run ") and not self._first_run:
            self._first_run = str((self.clone / "results/latest").resolve())

    def _with_found_names(self, line: str) -> str:
        if CELL in line:
            vm, _, word = CELL.partition("/")
            bundles = sorted((self.clone / "results/latest/bundles" / vm).iterdir())
            line = line.replace(CELL, f"{vm}/{bundles[0].name}").replace(word, bundles[0].name)
        return line.replace(OLD_RUN, self._first_run)

    def _make_tree(self) -> None:
        context = BuildContext.in_cache(Bus())
        deb = context.packages.fetch(SOURCE, "all", deadline=Deadline.after(_FETCH_SECONDS))
        scratch = self.root / "source"
        context.packages.unpack_deb(deb, scratch)
        (tarball,) = scratch.glob("usr/src/*.tar.*")
        self.tree.mkdir()
        _run("tar", "-x", "-f", tarball, "-C", self.tree, "--strip-components=1", "--no-same-owner")
        shutil.rmtree(scratch)
        git = ("git", "-C", self.tree, "-c", "user.name=A Reader", "-c", "user.email=reader@example.org")
        _run("git", "init", "--quiet", "-b", NEW, self.tree)
        _run(*git, "add", "--all", "--force")
        _run(*git, "commit", "--quiet", "-m", "Linux 6.1")
        _run(*git, "tag", OLD)
        for number in range(2):
            _add(self.tree / "kernel/kprobes.c", f"\n/* A comment, {number}. */\n")
            _run(*git, "commit", "--quiet", "-a", "-m", f"kprobes: comment {number}")
        for name, (right, wrong) in _BUGS.items():
            text = (self.tree / name).read_text()
            assert text.count(right) == 1, name
            (self.tree / name).write_text(text.replace(right, wrong))
        _run(*git, "commit", "--quiet", "-a", "-m", "kprobes, parisc: simplify")

    def _write_known_failures(self, file: Path) -> None:
        """List each failure of the latest run, as a reader does from the output of `compare`."""
        cells = [json.loads(line) for line in (self.clone / "results/latest/results.jsonl").read_text().splitlines()]
        failed = [cell for cell in cells if cell["verdict"] not in ("pass", "skip", "known-fail")]
        file.parent.mkdir(exist_ok=True)
        fields = ("case", "vm", "mutant", "verdict")
        file.write_text(
            "".join(
                "[[known]]\n"
                + "".join(f"{name} = {json.dumps(cell[name])}\n" for name in fields)
                + 'reason = "the seeded bug"\nowner = "reader@example.org"\n\n'
                for cell in failed
            )
        )

    def _fail_a_cell(self) -> None:
        """Make the latest run one with the bundle of a failed cell: a mutant's, shown as if it were honest."""
        words = ("run", "--vm", "parisc", "--as-honest", "-k", "test_symbol_lands and text-base")
        done = subprocess.run(["./pinpoint", *words], cwd=self.clone, env=self._environment, capture_output=True)
        assert done.returncode == 1, done.stdout.decode()[-2000:]

    def _build_probe(self) -> None:
        words = ("./pinpoint", "build", "--vm", "x86_64-debian", "--module", "my_probe.c")
        # The module is written into the current directory.
        subprocess.run(words, cwd=self.clone, env=self._environment, check=True, capture_output=True)

    def _make_packages(self) -> None:
        """Pack Debian's packages of a kernel as `make bindeb-pkg` does: one of the image, one of the headers."""
        kernel = _kernel_packages()
        for name, parts in (("linux-image-6.12", kernel.image), ("linux-headers-6.12", kernel.headers)):
            tree = _unpacked(parts, self.root / name)
            (tree / "DEBIAN").mkdir()
            # dpkg-deb refuses a directory that only its owner can read, as a umask of 077 makes it.
            (tree / "DEBIAN").chmod(0o755)
            about = f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: reader\nDescription: a kernel\n"
            (tree / "DEBIAN/control").write_text(about)
            _run("dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, self.clone / f"{name}.deb")
            shutil.rmtree(tree)

    def _make_rpm_packages(self) -> None:
        """Pack the same kernel as Fedora does; modules are compressed with xz, the headers are one directory."""
        kernel = _kernel_packages()
        tree = _unpacked([*kernel.image, *kernel.headers], self.root / "kernel")
        release = next((tree / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")
        modules = next(place for top in ("lib", "usr/lib") if (place := tree / top / "modules" / release).is_dir())
        core, devel = self.root / "kernel-core", self.root / "kernel-devel"
        core.mkdir()
        for name in ("vmlinuz", "config"):
            shutil.move(tree / f"boot/{name}-{release}", core / name)
        for listed in modules.glob("modules.*"):
            shutil.move(listed, core)
        _run("find", modules, "-name", "*.ko", "-exec", "xz", "-0", "--check=crc32", "{}", "+")
        own = tree / "usr/src" / f"linux-headers-{release}"
        (common,) = (tree / "usr/src").glob("linux-headers-*-common*")
        (kbuild,) = (tree / "usr/lib").glob("linux-kbuild-*")
        # Of the common headers, `scripts` and `tools` are links to kbuild's; the own Makefile includes the common one.
        for source, left_out in ((common, LINKS), (own, {*LINKS, "Makefile"}), (kbuild, set[str]())):
            shutil.copytree(source, devel, symlinks=True, dirs_exist_ok=True, ignore=_ignore_at(source, left_out))
        for name, part, inside in (
            ("kernel-core", core, f"lib/modules/{release}"),
            ("kernel-modules-core", modules / "kernel", f"lib/modules/{release}/kernel"),
            ("kernel-devel", devel, f"usr/src/kernels/{release}"),
        ):
            packed = rpm_archive.package(rpm_archive.members_below(part, inside), zstandard.ZstdCompressor(1).compress)
            (self.clone / f"{name}.rpm").write_bytes(packed)
        for part in (tree, core, devel):
            shutil.rmtree(part)


class _DebianPackages(NamedTuple):
    """The packages of one kernel: files of the image, and of the headers."""

    image: list[Path]
    headers: list[Path]


def _kernel_packages() -> _DebianPackages:
    packages = BuildContext.in_cache(Bus()).packages
    image = _dependency(packages, PACKAGE, "linux-image-")
    headers = image.replace("-image-", "-headers-")
    common = _dependency(packages, headers, "linux-headers-")
    kbuild = _dependency(packages, headers, "linux-kbuild-")
    deadline = Deadline.after(_FETCH_SECONDS)
    fetched = {
        name: packages.fetch(name, "all" if name == common else "amd64", deadline=deadline)
        for name in (image, headers, common, kbuild)
    }
    return _DebianPackages([fetched[image]], [fetched[name] for name in (headers, common, kbuild)])


def _unpacked(packages: Sequence[Path], tree: Path) -> Path:
    for package in packages:
        _run("dpkg-deb", "--extract", package, tree)
    return tree


def _ignore_at(top: Path, names: Collection[str]) -> Callable[[str, list[str]], set[str]]:
    """Return a function for shutil.copytree() that leaves out names directly below `top`."""
    return lambda directory, found: set(names) & set(found) if Path(directory) == top else set()


def _dependency(packages: Packages, package: str, prefix: str) -> str:
    found = packages.depends(package, "amd64")
    return next(name for name in found if name.startswith(prefix) and name != package)


def _add(file: Path, text: str) -> None:
    with file.open("a") as stream:
        stream.write(text)


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)

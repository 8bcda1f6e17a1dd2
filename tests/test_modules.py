"""Probe modules are built from a copy, with the kernel's flags and warnings as errors; bad modules are not kept.

The kernel here is a Makefile that compiles and links as kbuild does for `make M=`, which is fast.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from harness.core import paths
from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.core.errors import BuildError
from harness.core.events import Bus, ProgressStep
from harness.images import modules
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.kernel import KernelBuild, ModuleBuildTrees
from harness.images.module_build_directory import hold_module_build_directory
from harness.images.store import Store
from harness.images.vm_recipe import Recipe

NATIVE = next(architecture for architecture in ARCHITECTURES.values() if architecture.native)
RELEASE = "6.1.0-test"
REAL_PROBES = paths.PROBES

KERNEL_MAKEFILE = """\
modules: $(patsubst %.c,%.ko,$(wildcard $(M)/*.c))
%.ko: %.c
\t$(CC) $(KCFLAGS) -Wall -ffreestanding -fno-pic -c $< -o $@.o
\t$(CROSS_COMPILE)ld -r --build-id=sha1 $@.o -o $@
"""

MODULE = f"""\
static const char vermagic[] __attribute__((section(".modinfo"), used)) = "vermagic={RELEASE} SMP mod_unload ";
int leaf(int x) {{ return x + 1; }}
"""


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a probes/ directory with one module, read-only as it may be for an ordinary user."""
    directory = tmp_path / "probes"
    directory.mkdir()
    (directory / "Kbuild").write_text("obj-m := shape.o\n")
    (directory / "shape.c").write_text(MODULE)
    monkeypatch.setattr(paths, "PROBES", directory)
    return directory


@pytest.fixture
def kernel(tmp_path: Path) -> KernelBuild:
    source = tmp_path / "linux"
    source.mkdir()
    (source / "Makefile").write_text(KERNEL_MAKEFILE)
    (source / "start.c").write_text("int start(void) { return 0; }\n")
    vmlinux = source / "vmlinux"
    subprocess.run(["gcc", "-nostdlib", "-static", "-Wl,-estart", "-o", vmlinux, source / "start.c"], check=True)
    return KernelBuild(
        key="kernel-key",
        release=RELEASE,
        build_id="",
        kernel=vmlinux,
        bootable_elf=vmlinux,
        vmlinux=vmlinux,
        headers=ModuleBuildTrees(source, source),
        drivers=(),
        config={},
        facts={},
    )


@pytest.fixture
def build_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "cache"))
    bus = Bus()
    return BuildContext(Store(tmp_path / "cache/store", bus), cast(Packages, None), bus)


def recipe(cflags: str = "") -> Recipe:
    return Recipe.model_validate(
        {
            "name": "vm",
            "arch": NATIVE.name,
            "describe": "a test",
            "kernel": {"source": "debian-source", "package": "linux-source", "cflags": cflags},
        }
    )


def obtain(recipe: Recipe, kernel: KernelBuild, build_context: BuildContext) -> Mapping[str, Path]:
    """Build the modules under the key that prepare() computes for them."""
    return modules.obtain(recipe, kernel, build_context, modules.key_parts(recipe, kernel.key, build_context))


def test_modules_are_built_from_a_copy_and_known_by_name(
    probes: Path, kernel: KernelBuild, build_context: BuildContext
) -> None:
    probes.chmod(0o555)
    built = obtain(recipe(), kernel, build_context)
    assert list(built) == ["shape"]
    assert Elf.read(built["shape"]).modinfo_value("vermagic").startswith(f"{RELEASE} ")
    assert not [path for path in built["shape"].parent.iterdir() if path.is_dir()], "the scratch directory is left"
    assert {path.name for path in probes.iterdir()} == {"Kbuild", "shape.c"}


def test_a_directory_of_its_own_may_have_a_module_of_the_same_name(
    probes: Path, kernel: KernelBuild, build_context: BuildContext
) -> None:
    (probes / "other").mkdir()
    (probes / "other/Kbuild").write_text("obj-m := shape.o\n")
    (probes / "other/shape.c").write_text(MODULE.replace("x + 1", "x + 2"))
    built = obtain(recipe(), kernel, build_context)
    assert list(built) == ["other/shape", "shape"]
    one, other = (Elf.read(built[name]) for name in ("shape", "other/shape"))
    assert one.build_id != other.build_id
    assert built["other/shape"].name == built["shape"].name
    before = modules.key_parts(recipe(), "key", build_context)
    (probes / "other/shape.c").write_text(MODULE)
    assert modules.key_parts(recipe(), "key", build_context) != before


def test_a_directory_that_builds_no_module_is_named(
    probes: Path, kernel: KernelBuild, build_context: BuildContext
) -> None:
    (probes / "other").mkdir()
    (probes / "other/Kbuild").write_text("obj-m := shape.o\n")
    with pytest.raises(BuildError, match=r"probes/other/Kbuild: no module was built"):
        obtain(recipe(), kernel, build_context)


@pytest.mark.usefixtures("probes")
def test_the_kernels_flags_reach_its_modules(kernel: KernelBuild, build_context: BuildContext) -> None:
    plain = obtain(recipe(), kernel, build_context)["shape"]
    sections = obtain(recipe("-ffunction-sections"), kernel, build_context)["shape"]
    assert ".text.leaf" not in Elf.read(plain).sections_by_name
    assert ".text.leaf" in Elf.read(sections).sections_by_name


@pytest.mark.usefixtures("probes")
def test_no_directory_of_this_machine_is_in_a_module(
    kernel: KernelBuild, build_context: BuildContext, tmp_path: Path
) -> None:
    module = obtain(recipe(), kernel, build_context)["shape"]
    assert str(tmp_path).encode() not in module.read_bytes()


@pytest.mark.usefixtures("probes")
def test_the_same_sources_make_the_same_bytes(kernel: KernelBuild, build_context: BuildContext) -> None:
    first = obtain(recipe(), kernel, build_context)["shape"]
    bytes_first = first.read_bytes()
    shutil.rmtree(first.parent)
    assert obtain(recipe(), kernel, build_context)["shape"].read_bytes() == bytes_first


def test_a_warning_fails_the_build_and_is_named(probes: Path, kernel: KernelBuild, build_context: BuildContext) -> None:
    (probes / "shape.c").write_text(MODULE + "static int unused(void) { return 1; }\n")
    with pytest.raises(BuildError, match=r"make modules failed: .*unused") as caught:
        obtain(recipe(), kernel, build_context)
    assert any("unused" in line for line in caught.value.last_lines())
    assert not list(build_context.store.root.glob("*modules*")), "half an entry is left"


def test_a_probes_directory_that_builds_no_module(
    probes: Path, kernel: KernelBuild, build_context: BuildContext
) -> None:
    (probes / "shape.c").unlink()
    with pytest.raises(BuildError, match="no module was built; name one in obj-m"):
        obtain(recipe(), kernel, build_context)


@pytest.mark.usefixtures("probes")
def test_a_module_for_another_release_is_not_kept(kernel: KernelBuild, build_context: BuildContext) -> None:
    other = replace(kernel, release="6.1.0-other")
    with pytest.raises(BuildError, match=rf"shape\.ko is for the kernel '{RELEASE}', not '6\.1\.0-other'"):
        obtain(recipe(), other, build_context)


@pytest.mark.usefixtures("probes")
def test_a_module_without_a_build_id(kernel: KernelBuild, build_context: BuildContext) -> None:
    (kernel.headers.source / "Makefile").write_text(KERNEL_MAKEFILE.replace("--build-id=sha1", ""))
    with pytest.raises(BuildError, match=r"shape\.ko has no build-id"):
        obtain(recipe(), kernel, build_context)


@pytest.mark.usefixtures("probes")
def test_a_module_without_line_tables(kernel: KernelBuild, build_context: BuildContext) -> None:
    (kernel.headers.source / "Makefile").write_text(KERNEL_MAKEFILE.replace("$(KCFLAGS)", "-Werror"))
    with pytest.raises(BuildError, match=r"shape\.ko has no DWARF line table"):
        obtain(recipe(), kernel, build_context)


@pytest.mark.usefixtures("probes")
def test_a_module_of_another_machine(kernel: KernelBuild, build_context: BuildContext, tmp_path: Path) -> None:
    module = obtain(recipe(), kernel, build_context)["shape"]
    foreign = tmp_path / "foreign.ko"
    image = bytearray(module.read_bytes())
    e_machine, parisc = 18, 15  # include/uapi/linux/elf.h, elf-em.h
    struct.pack_into("<H", image, e_machine, parisc)
    foreign.write_bytes(image)
    with pytest.raises(BuildError, match=r"foreign\.ko is for EM_PARISC, 64 bit, the kernel for EM_"):
        modules.check(foreign, kernel)


def test_the_key_follows_all_that_goes_in(probes: Path, build_context: BuildContext) -> None:
    keys = [
        modules.key_parts(recipe(), "one", build_context),
        modules.key_parts(recipe(), "two", build_context),
        modules.key_parts(recipe("-O1"), "one", build_context),
    ]
    (probes / "shape.c").write_text(MODULE.replace("x + 1", "x + 2"))
    keys.append(modules.key_parts(recipe(), "one", build_context))
    (probes / "shape.o").write_text("what a build by hand leaves")
    (probes / "user").mkdir()
    (probes / "user/runner.c").write_text("int main(void) { return 0; }\n")
    assert modules.key_parts(recipe(), "one", build_context) == keys[-1]
    assert len({tuple(key) for key in keys}) == 4


def add_kernel(kernel: KernelBuild, build_context: BuildContext, key: str, generated: str = "") -> KernelBuild:
    """Return a kernel from the same source tree whose object tree is in the store, in an entry with this key.

    Its make takes the paths of the sources and of the object tree into the compiler's command line.
    """
    objects = build_context.store.root / f"kernel-{key}/tree"
    (objects / "include").mkdir(parents=True)
    (objects / "include/autoconf.h").write_text(generated)
    flags = "-Wp,-MMD,$@.d -include $(O)/include/autoconf.h -DKBUILD_MODFILE='\"$(M)/shape\"'"
    (kernel.headers.source / "Makefile").write_text(KERNEL_MAKEFILE.replace("$(KCFLAGS)", f"$(KCFLAGS) {flags}"))
    return replace(kernel, key=key, headers=ModuleBuildTrees(kernel.headers.source, objects))


def count_of_ccache(name: str) -> int:
    """Return one of the statistics of ccache: `cache_miss`, the compilations that it ran."""
    environment = {**os.environ, "CCACHE_DIR": str(paths.cache() / "ccache")}
    printed = subprocess.run(["ccache", "--print-stats"], env=environment, capture_output=True, text=True, check=True)
    return int(dict(line.split("\t") for line in printed.stdout.splitlines())[name])


@pytest.mark.usefixtures("probes")
def test_modules_for_a_changed_kernel_are_not_compiled_again(kernel: KernelBuild, build_context: BuildContext) -> None:
    """A kernel with the same headers gives its modules the same commands, though its store entry is another one."""
    one = obtain(recipe(), add_kernel(kernel, build_context, "one"), build_context)["shape"]
    assert count_of_ccache("cache_miss") == 1
    other = obtain(recipe(), add_kernel(kernel, build_context, "other"), build_context)["shape"]
    assert other.parent != one.parent
    assert count_of_ccache("cache_miss") == 1
    assert other.read_bytes() == one.read_bytes()
    obtain(recipe(), add_kernel(kernel, build_context, "third", "extern int option;\n"), build_context)
    assert count_of_ccache("cache_miss") == 2


@pytest.mark.usefixtures("probes")
def test_the_preprocessor_is_not_run_as_well(kernel: KernelBuild, build_context: BuildContext) -> None:
    obtain(recipe(), add_kernel(kernel, build_context, "one"), build_context)
    assert (count_of_ccache("cache_miss"), count_of_ccache("preprocessed_cache_miss")) == (1, 0)
    # ccache's depend mode is wrong for a file with such a directive.
    sources = [path for path in REAL_PROBES.rglob("*") if path.suffix in (".c", ".h", ".S")]
    assert sources
    assert [path for path in sources if ".incbin" in path.read_text()] == []


@pytest.mark.usefixtures("probes")
def test_the_directory_of_module_builds_is_removed(kernel: KernelBuild, build_context: BuildContext) -> None:
    given = add_kernel(kernel, build_context, "one")
    left = paths.cache() / "work"
    with hold_module_build_directory(recipe(), given.headers, ProgressStep(Bus(), "vm", "modules")) as place:
        assert (place.headers.objects / "include/autoconf.h").samefile(given.headers.objects / "include/autoconf.h")
        assert place.headers.source == given.headers.source
        (place.sources / "shape.ko").write_text("of a build that was killed")
        shutil.copytree(place.sources.parent, left / "copy")
    assert [path.name for path in left.iterdir() if path.name.startswith("modules-")] == []
    (left / "copy").rename(place.sources.parent)
    with hold_module_build_directory(recipe(), given.headers, ProgressStep(Bus(), "vm", "modules")) as again:
        assert again == place
        assert list(again.sources.iterdir()) == []
    assert (given.headers.objects / "include/autoconf.h").is_file()


def test_a_store_on_another_file_system(kernel: KernelBuild, build_context: BuildContext, tmp_path: Path) -> None:
    if Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        build_context.store.root.parent.mkdir()
        build_context.store.root.symlink_to(elsewhere)
        given = add_kernel(kernel, build_context, "one", "extern int option;\n")
        with hold_module_build_directory(recipe(), given.headers, ProgressStep(Bus(), "vm", "modules")) as place:
            copy = place.headers.objects / "include/autoconf.h"
            assert copy.is_relative_to(paths.cache() / "work")
            assert copy.read_text() == "extern int option;\n"
            assert copy.stat().st_mtime_ns == (given.headers.objects / "include/autoconf.h").stat().st_mtime_ns


def test_kernels_of_other_flags_and_releases_build_their_modules_elsewhere(
    kernel: KernelBuild, build_context: BuildContext
) -> None:
    step = ProgressStep(Bus(), "vm", "modules")
    packaged = []
    for key, release in (("one", "6.1"), ("two", "6.12")):
        tree = build_context.store.root / f"kernel-{key}/tree"
        trees = ModuleBuildTrees(tree / f"linux-{release}-common", tree / f"linux-{release}")
        for path in (trees.source, trees.objects):
            path.mkdir(parents=True)
        packaged.append(trees)
    with (
        hold_module_build_directory(recipe(), packaged[0], step) as first,
        hold_module_build_directory(recipe(), packaged[1], step) as second,
        hold_module_build_directory(recipe("-O1"), packaged[0], step) as third,
        hold_module_build_directory(recipe(), kernel.headers, step) as fourth,
    ):
        assert len({first.sources, second.sources, third.sources, fourth.sources}) == 4
        assert first.headers.source == first.sources.parent / "tree/linux-6.1-common"
        assert fourth.headers == kernel.headers

"""Probe modules are built from a copy, with the kernel's flags and warnings as errors; bad modules are not kept.

The kernel here is a Makefile that compiles and links as kbuild does for `make M=`, which is fast.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from harness.core import paths
from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.core.errors import BuildError
from harness.core.events import Bus
from harness.images import modules
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.kernel import KernelBuild, ModuleBuildTrees
from harness.images.store import Store
from harness.images.vm_recipe import Recipe

NATIVE = next(architecture for architecture in ARCHITECTURES.values() if architecture.native)
RELEASE = "6.1.0-test"

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
    assert modules.key_parts(recipe(), "one", build_context) == keys[-1]
    assert len({tuple(key) for key in keys}) == 4

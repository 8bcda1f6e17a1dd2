"""What is taken out of Debian's debug package, and that a package of another build is refused."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.elf import Elf
from harness.core.errors import BuildError, HostError
from harness.core.events import Bus
from harness.images import debian_kernel, debug_information_tree, debug_symbols
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kernel import ModuleBuildTrees
from harness.images.vm_recipe import Recipe, with_debug_symbols

RELEASE = "6.1.0-9-amd64"
VMLINUX = f"usr/lib/debug/boot/vmlinux-{RELEASE}"
MODULES = f"usr/lib/debug/lib/modules/{RELEASE}/kernel/drivers"


@pytest.fixture
def vmlinux(tmp_path: Path) -> Elf:
    """A linked file with a build-id and one function."""
    source, made = tmp_path / "k.s", tmp_path / "k"
    source.write_text(".text\n.globl _start\n.type _start, @function\n_start: ret\n.size _start, 1\n")
    subprocess.run(["gcc", "-nostdlib", "-static", "-Wl,--build-id", "-o", made, source], check=True)
    return Elf.read(made)


@pytest.fixture
def package(tmp_path: Path, vmlinux: Elf) -> Path:
    """A debug package; an unwanted module is its last file."""
    root = tmp_path / "debug"
    for path, content in (
        ("DEBIAN/control", b"Package: d\nVersion: 1\nArchitecture: all\nMaintainer: n\nDescription: d\n"),
        (VMLINUX, vmlinux.path.read_bytes()),
        (f"{MODULES}/net/virtio_net.ko", b"a module"),
        (f"{MODULES}/zz/unwanted.ko", b"another"),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "DEBIAN").chmod(0o755)
    subprocess.run(["dpkg-deb", "--build", root, tmp_path / "debug.deb"], check=True, capture_output=True)
    return tmp_path / "debug.deb"


@pytest.fixture
def context(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    """A store of its own, and a mirror that has only the debug package."""
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(debian_kernel, "image_package", lambda *_: (f"linux-image-{RELEASE}", "amd64"))
    packages = SimpleNamespace(hash=lambda *_: "0", fetch=lambda *_, **__: package, with_suite=lambda _: packages)
    return replace(BuildContext.in_cache(Bus()), packages=cast(Any, packages))


@pytest.fixture
def image(tmp_path: Path, vmlinux: Elf) -> Image:
    """An image whose tree refers to programs by a link."""
    objects = tmp_path / "headers" / "objects"
    (tmp_path / "headers" / "programs").mkdir(parents=True)
    objects.mkdir()
    (objects / "Makefile").write_text("include $(dir $(lastword $(MAKEFILE_LIST)))../source/Makefile\n")
    (objects / "scripts").symlink_to("../programs")
    recipe = Recipe.model_validate(
        {
            "name": "vm",
            "arch": "x86_64",
            "describe": "a test",
            "kernel": {"source": "debian-binary", "package": "linux-image-amd64"},
        }
    )
    files = (vmlinux.path,) * 3
    drivers = {"virtio_net": Path("virtio-net.ko"), "failover": Path("failover.ko")}
    headers = ModuleBuildTrees(tmp_path / "headers" / "source", objects)
    return Image(recipe, "key", *files, {}, RELEASE, vmlinux.build_id, {}, {}, headers=headers, drivers=drivers)


def test_functions_of_the_vmlinux_are_kept(image: Image, vmlinux: Elf, context: BuildContext) -> None:
    file = debug_symbols.obtain(image.recipe, vmlinux.build_id, context, ["x"])
    start = vmlinux.function("_start")
    assert debug_symbols.read_functions(file)["_start"] == [(start.address, 1)]
    assert [path.name for path in file.parent.iterdir() if path.stat().st_size > 10_000] == []


def test_the_tree_has_the_vmlinux_and_the_modules_of_the_guest(image: Image, context: BuildContext) -> None:
    tree = debug_information_tree.obtain(image, context)
    assert image.headers is not None
    assert Elf.read(tree / "vmlinux").build_id == image.build_id
    assert [path.name for path in (tree / "modules").iterdir()] == ["virtio_net.ko"]
    assert (tree / "Makefile").read_text() == f"include {image.headers.source}/Makefile\n"
    assert (tree / "scripts").readlink() == image.headers.objects.parent / "programs"
    assert (image.headers.objects / "scripts").readlink() == Path("../programs")


def test_a_kernel_that_was_built_with_debug_information_needs_no_package(
    tmp_path: Path, image: Image, context: BuildContext
) -> None:
    """Its tree for module builds lacks the vmlinux; a user's build directory has it."""
    assert image.headers is not None
    assert not debug_information_tree.is_at_hand(image)
    assert debug_information_tree.is_at_hand(replace(image, recipe=with_debug_symbols(image.recipe)))
    (tmp_path / "k.c").write_text("void _start(void) { }\n")
    made = tmp_path / "with-debug-information"
    subprocess.run(["gcc", "-g", "-nostdlib", "-static", "-o", made, tmp_path / "k.c"], check=True)
    made.with_name("config").write_text("CONFIG_RELAY=y\n")
    built = replace(image, vmlinux=made)
    assert debug_information_tree.is_at_hand(built)
    tree = debug_information_tree.obtain(built, context)
    assert (tree / "vmlinux").read_bytes() == made.read_bytes()
    assert (tree / ".config").read_text() == "CONFIG_RELAY=y\n"
    assert (tree / "scripts").readlink() == image.headers.objects.parent / "programs"
    (image.headers.objects / "vmlinux").write_bytes(made.read_bytes())
    assert debug_information_tree.obtain(built, context) == image.headers.objects


def test_a_package_of_another_build_is_refused(image: Image, context: BuildContext) -> None:
    with pytest.raises(BuildError, match=r"has build-id .*, the kernel bb"):
        debug_symbols.obtain(image.recipe, "bb", context, ["x"])
    with pytest.raises(BuildError, match=r"has build-id .*, the kernel bb"):
        debug_information_tree.obtain(replace(image, build_id="bb"), context)


def test_a_package_without_a_vmlinux_is_one_line(
    image: Image, context: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debug_symbols, "_PLACES", ("elsewhere/{0}",))
    for use in (
        lambda: debug_symbols.obtain(image.recipe, image.build_id, context, ["x"]),
        lambda: debug_information_tree.obtain(image, context),
    ):
        with pytest.raises(HostError, match=f"has no file elsewhere/{RELEASE}"):
            use()


def test_only_a_binary_kernel_gets_debug_symbols(image: Image) -> None:
    assert with_debug_symbols(image.recipe).kernel.debug_symbols
    built = image.recipe.kernel.model_copy(update={"source": "debian-source"})
    assert not with_debug_symbols(image.recipe.model_copy(update={"kernel": built})).kernel.debug_symbols

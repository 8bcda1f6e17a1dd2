"""A packaged kernel is unpacked, wrapped into an ELF file with symbols, and laid out for module builds."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
from debian_repository import Repository, Signer

from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import BuildError, RecipeError, UsageError
from harness.core.events import Bus
from harness.images import (
    debian_kernel,
    drivers,
    host_apt_sources,
    kallsyms,
    packaged_kernel_module_by_name,
    vmlinux,
    write_recovered_symbols_elf,
)
from harness.images.build_context import BuildContext
from harness.images.debian_kernel import prepare_headers_for_builds
from harness.images.debian_packages_by_name import Packages
from harness.images.image import Image
from harness.images.kallsyms import RecoveredSymbol
from harness.images.private_apt import host_debian_architecture
from harness.images.store import Store
from harness.images.vm_recipe import Kernel, Recipe
from harness.images.write_recovered_symbols_elf import FlatSection

BASE = 0xFFFF_8000_0800_0000
KERNEL = vmlinux.ELF + bytes(range(256)) * 40


def bzimage(payload: bytes) -> bytes:
    """Return a bzImage with two setup sectors, 100 bytes of decompressor, and the payload."""
    image = bytearray(3 * 512)
    image[0x1F1] = 2
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 100, len(payload))
    return bytes(image) + bytes(100) + payload + bytes(64)


def with_size(compressed: bytes) -> bytes:
    return compressed + struct.pack("<I", len(KERNEL))


@pytest.mark.parametrize(
    "compress",
    [lzma.compress, gzip.compress, bz2.compress, lambda data: lzma.compress(data, lzma.FORMAT_ALONE)],
    ids=["xz", "gzip", "bzip2", "lzma"],
)
def test_the_kernel_comes_out_of_a_bzimage(compress: Callable[[bytes], bytes]) -> None:
    assert vmlinux.unpack(bzimage(with_size(compress(KERNEL))), "vmlinuz") == KERNEL


def test_a_zstd_kernel_comes_out_too() -> None:
    zstandard = pytest.importorskip("zstandard")
    payload = with_size(zstandard.ZstdCompressor().compress(KERNEL))
    assert vmlinux.unpack(bzimage(payload), "vmlinuz") == KERNEL


def test_an_lz4_kernel_comes_out_too() -> None:
    """In the format of `lz4 -l`: blocks, each with its length. The kernel has more than one."""
    parts = [lz4.block.compress(part, store_size=False) for part in (KERNEL[:9000], KERNEL[9000:])]
    payload = b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(part)) + part for part in parts)
    assert vmlinux.unpack(bzimage(with_size(payload)), "vmlinuz") == KERNEL


def test_a_flat_image_is_taken_as_it_is() -> None:
    image = bytes(0x38) + b"ARMd" + bytes(100)
    assert vmlinux.unpack(image, "vmlinuz") == image


@pytest.mark.parametrize(
    ("image", "reported"),
    [
        (b"", "neither a bzImage, an Image nor an ELF"),
        (bytes(4096), "neither a bzImage, an Image nor an ELF"),
        (bzimage(b"????"), "compression 3f3f3f3f"),
    ],
)
def test_what_is_no_kernel_is_one_line(image: bytes, reported: str) -> None:
    with pytest.raises(BuildError, match=reported) as caught:
        vmlinux.unpack(image, "vmlinuz")
    assert "\n" not in str(caught.value)


def test_a_file_without_kallsyms_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"Linux version 6.1.0 (nobody) " + bytes(100_000))
    with pytest.raises(BuildError, match="no symbols recovered") as caught:
        kallsyms.recover(tmp_path / "kernel", tmp_path / "answer", Deadline.after(60))
    assert "\n" not in str(caught.value)


def test_symbols_are_found_by_name() -> None:
    table = kallsyms.Kallsyms(BASE, (RecoveredSymbol(BASE, "T", "_stext"), RecoveredSymbol(BASE + 8, "T", "_etext")))
    assert table.symbol_address("_etext") == BASE + 8
    with pytest.raises(BuildError, match="no _sinittext"):
        table.symbol_address("_sinittext")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Return a flat image of 0x3000 bytes with symbols of every kind; its middle third is text."""
    image = bytes(0x1000) + bytes(range(256)) * 16 + bytes(0x1000)
    places = [
        FlatSection(".head.text", BASE, BASE + 0x1000, executable=False),
        FlatSection(".text", BASE + 0x1000, BASE + 0x2000, executable=True),
        FlatSection(".data", BASE + 0x2000, BASE + 0x3000, executable=False),
        FlatSection(".bss", BASE + 0x3000, BASE + 0x5000, executable=False, in_file=False),
    ]
    symbols = [
        RecoveredSymbol(0, "A", "absolute"),
        RecoveredSymbol(BASE + 0x1000, "T", "_stext"),
        RecoveredSymbol(BASE + 0x1010, "t", "twin"),
        RecoveredSymbol(BASE + 0x1020, "W", "weak"),
        RecoveredSymbol(BASE + 0x1030, "t", "twin"),
        RecoveredSymbol(BASE + 0x2010, "D", "table"),
        RecoveredSymbol(BASE + 0x5000, "B", "_end"),
    ]
    path = tmp_path / "vmlinux"
    path.write_bytes(
        write_recovered_symbols_elf.with_symbols(
            write_recovered_symbols_elf.elf_bytes_from_flat_image(
                image, BASE, places, 183, write_recovered_symbols_elf.Form(8, little_endian=True)
            ),
            symbols,
        )
    )
    return path


def test_a_wrapped_image_reads_as_an_elf(flat: Path) -> None:
    elf = Elf.read(flat)
    assert elf.machine == "EM_AARCH64"
    assert elf.bytes_at(BASE + 0x1010, 4) == bytes([0x10, 0x11, 0x12, 0x13])
    found = [
        (symbol.name, symbol.address - BASE, symbol.section, symbol.kind, symbol.binding) for symbol in elf.symbols
    ]
    assert sorted(found) == sorted(
        [
            ("absolute", -BASE, "*ABS*", "notype", "global"),
            ("_stext", 0x1000, ".text", "func", "global"),
            ("twin", 0x1010, ".text", "func", "local"),
            ("twin", 0x1030, ".text", "func", "local"),
            ("weak", 0x1020, ".text", "func", "weak"),
            ("table", 0x2010, ".data", "object", "global"),
            ("_end", 0x5000, ".bss", "notype", "global"),
        ]
    )


def test_binutils_accept_a_wrapped_image(flat: Path) -> None:
    reported = subprocess.run(["readelf", "--wide", "-hlS", "-s", flat], capture_output=True, text=True, check=True)
    assert "Warning" not in reported.stderr + reported.stdout
    assert "Error" not in reported.stderr + reported.stdout
    assert "twin" in reported.stdout


def test_symbols_are_added_to_an_elf_that_stays_as_it_was(tmp_path: Path) -> None:
    source, plain = tmp_path / "a.c", tmp_path / "plain"
    source.write_text("int table = 7;\nint work(void) { return table; }\nvoid _start(void) { work(); }\n")
    flags = ["-nostdlib", "-static", "-ffreestanding", "-Wl,--build-id=sha1"]
    subprocess.run(["gcc", "-g0", *flags, "-o", plain, source], check=True)
    linked = Elf.read(plain)
    address = linked.function("work").address
    subprocess.run(["strip", plain], check=True)
    stripped = plain.read_bytes()
    named = tmp_path / "named"
    named.write_bytes(write_recovered_symbols_elf.with_symbols(stripped, [RecoveredSymbol(address, "T", "work")]))
    elf = Elf.read(named)
    assert elf.build_id == linked.build_id != ""
    assert elf.function("work").address == address
    assert elf.bytes_at(address, 8) == linked.bytes_at(address, 8)
    # Everything except the file header's pointer to the section headers and their count.
    assert named.read_bytes()[64 : len(stripped)] == stripped[64:]
    named.chmod(0o755)


@pytest.mark.parametrize("word_bytes", [4, 8])
@pytest.mark.parametrize("little_endian", [True, False])
def test_every_form_of_elf_is_written(tmp_path: Path, word_bytes: int, little_endian: bool) -> None:
    form = write_recovered_symbols_elf.Form(word_bytes, little_endian)
    base = 0xC0100000
    places = [write_recovered_symbols_elf.FlatSection(".text", base, base + 0x1000, executable=True)]
    written = write_recovered_symbols_elf.elf_bytes_from_flat_image(bytes(range(256)) * 16, base, places, 18, form)
    assert write_recovered_symbols_elf.count_symbols(written) == 0
    written = write_recovered_symbols_elf.with_symbols(
        written, [RecoveredSymbol(base + 0x10, "t", "one"), RecoveredSymbol(base + 0x20, "T", "two")]
    )
    path = tmp_path / "vmlinux"
    path.write_bytes(written)
    elf = Elf.read(path)
    assert (elf.word_bytes, elf.byte_order) == (word_bytes, "little" if little_endian else "big")
    assert [(each.name, each.address, each.size, each.binding) for each in elf.symbols] == [
        ("one", base + 0x10, 0x10, "local"),
        ("two", base + 0x20, 0xFE0, "global"),
    ]
    assert elf.bytes_at(base + 0x10, 4) == bytes([0x10, 0x11, 0x12, 0x13])
    assert write_recovered_symbols_elf.count_symbols(written) == 3
    listing = subprocess.run(["readelf", "--wide", "-hlS", "-s", path], capture_output=True, text=True, check=True)
    assert "Warning" not in listing.stderr + listing.stdout


def test_what_is_no_elf_is_refused() -> None:
    with pytest.raises(BuildError, match="not an ELF file"):
        write_recovered_symbols_elf.with_symbols(bytes(100), [])


NOTE = struct.pack("<III4s", 4, 20, 3, b"GNU") + bytes(range(20))


def vdso() -> bytes:
    """Return a page with a small ELF file that has a build-id note of its own."""
    elf = bytearray(4096)
    elf[:5] = vmlinux.ELF + b"\x02"
    struct.pack_into("<Q", elf, 40, 1024)
    struct.pack_into("<HH", elf, 58, 64, 4)
    elf[512 : 512 + len(NOTE)] = NOTE
    return bytes(elf)


def test_the_kernels_own_build_id_is_distinguished_from_the_vdsos() -> None:
    kernel = (bytes(100) + NOTE).ljust(4096, b"\0")
    assert vmlinux.build_id_note_offset(vdso() + kernel + vdso()) == 4096 + 100


def test_a_big_endian_kernels_build_id_is_found() -> None:
    elf = bytearray(4096)
    elf[:6] = vmlinux.ELF + b"\x02\x02"
    struct.pack_into(">Q", elf, 40, 1024)
    struct.pack_into(">HH", elf, 58, 64, 4)
    note = struct.pack(">III4s", 4, 20, 3, b"GNU") + bytes(20)
    elf[512 : 512 + len(note)] = note
    image = bytes(100) + note
    assert vmlinux.build_id_note_offset(image.ljust(4096, b"\0") + bytes(elf), "big") == 100
    with pytest.raises(BuildError):
        vmlinux.build_id_note_offset(image)


@pytest.mark.parametrize("image", [vdso(), NOTE + NOTE, bytes(100)], ids=["only a vDSO's", "two", "none"])
def test_an_unclear_build_id_is_an_error(image: bytes) -> None:
    with pytest.raises(BuildError, match="build-id notes in the kernel"):
        vmlinux.build_id_note_offset(image)


def module(path: Path, depends: str) -> Path:
    source = path.with_suffix(".c")
    path.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(f'const char d[] __attribute__((section(".modinfo"))) = "license=GPL\\0depends={depends}";\n')
    subprocess.run(["gcc", "-c", "-o", path, source], check=True)
    return path


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """Return a tree of modules: net needs bus and ring, bus needs ring, base is built in.

    File names have dashes, and one file is compressed.
    """
    root = tmp_path / "modules"
    module(root / "kernel/net/virt-net.ko", "virt_bus,virt-ring,base")
    module(root / "kernel/bus/virt_bus.ko", "virt_ring")
    packed = module(root / "kernel/bus/virt-ring.ko", "")
    packed.with_suffix(".ko.xz").write_bytes(lzma.compress(packed.read_bytes()))
    packed.unlink()
    module(root / "kernel/other.ko", "")
    (root / "modules.builtin").write_text("kernel/lib/base.ko\n")
    return root


def test_drivers_come_in_loading_order_with_what_they_need(modules: Path, tmp_path: Path) -> None:
    kept = drivers.copy_modules(modules, ["virt_bus", "virt_net", "base"], tmp_path / "kept")
    assert kept == ["00-virt_ring.ko", "01-virt_bus.ko", "02-virt_net.ko"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == kept
    assert Elf.read(tmp_path / "kept/00-virt_ring.ko").sections_by_name[".modinfo"]


def test_a_driver_the_kernel_lacks_is_one_line(modules: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no module tulip"):
        drivers.copy_modules(modules, ["tulip"], tmp_path / "kept")


def test_headers_work_from_wherever_they_stand(tmp_path: Path) -> None:
    common, own = "usr/src/linux-headers-6.1.0-1-common", "usr/src/linux-headers-6.1.0-1-amd64"
    tree = tmp_path / "tree"
    for name in (f"{common}/arch/x86", f"{common}/arch/sh", f"{own}/arch/x86", f"{own}/include/config", "usr/share"):
        (tree / name).mkdir(parents=True)
    (tree / common / "Makefile").write_text("all:\n\t@echo built from $(realpath $(lastword $(MAKEFILE_LIST)))\n")
    (tree / own / "Makefile").write_text(f"include /{common}/Makefile\n")
    (tree / own / "include/config/auto.conf").write_text("CONFIG_X=y\n")
    (tree / own / "include/config/X").touch()
    (tree / own / "vmlinux").touch()
    prepare_headers_for_builds(tree, "6.1.0-1-amd64")
    moved = tmp_path / "elsewhere"
    tree.rename(moved)
    reported = subprocess.run(["make", "-s", "-C", moved / own], capture_output=True, text=True, check=True)
    assert reported.stdout.strip() == f"built from {moved / common}/Makefile"
    assert (moved / own / "include/config/auto.conf").exists()
    assert not (moved / own / "include/config/X").exists()
    assert not (moved / own / "vmlinux").exists(), "kbuild would want pahole"
    assert not (moved / common / "arch/sh").exists()
    assert not (moved / "usr/share").exists()


def test_headers_of_another_layout_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="have an unknown layout"):
        prepare_headers_for_builds(tmp_path, "6.1.0-1-amd64")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Return a repository with the package names of one Debian kernel for arm64; the packages are empty."""
    signer = Signer()
    (tmp_path / "archive.gpg").write_bytes(signer.keyring)
    monkeypatch.setattr(host_apt_sources, "KEYRING", tmp_path / "archive.gpg")
    found = Repository(tmp_path / "debian", signer)
    monkeypatch.setenv(host_apt_sources.MIRROR_VARIABLE, found.uri)
    release = "6.1.0-1-arm64"
    needed = "linux-headers-6.1.0-1-common, linux-kbuild-6.1, gcc-12"
    found.add("linux-image-arm64", {}, depends=f"linux-image-{release} (= 6.1)", architecture="arm64")
    found.add(f"linux-image-{release}", {"boot/a": "a"}, depends="kmod", architecture="arm64")
    found.add(f"linux-headers-{release}", {"usr/a": "a"}, depends=needed, architecture="arm64")
    found.add("linux-headers-6.1.0-1-common", {"usr/b": "b"}, architecture="all")
    found.add("linux-kbuild-6.1", {"usr/c": "c"}, architecture=host_debian_architecture())
    found.publish()
    return found


def build_context(tmp_path: Path) -> BuildContext:
    bus = Bus()
    return BuildContext(Store(tmp_path / "store", bus), Packages(tmp_path / "apt", bus, suites=["bookworm"]), bus)


def recipe(package: str, arch: str = "arm64") -> Recipe:
    kernel = Kernel(source="debian-binary", package=package)
    return Recipe(name="vm", arch=arch, describe="a test", kernel=kernel)


@pytest.mark.slow
def test_the_packages_behind_a_name_go_into_the_key(tmp_path: Path, repository: Repository) -> None:
    parts = debian_kernel.key_parts(recipe("linux-image-arm64"), build_context(tmp_path / "one"))
    named = [part.split()[0] for part in parts if part.startswith("linux-")]
    assert named == [
        "linux-image-6.1.0-1-arm64",
        "linux-headers-6.1.0-1-arm64",
        "linux-headers-6.1.0-1-common",
        "linux-kbuild-6.1",
    ]
    assert debian_kernel.key_parts(recipe("linux-image-6.1.0-1-arm64"), build_context(tmp_path / "two")) == parts
    repository.add("linux-image-6.1.0-1-arm64", {"boot/a": "another"}, version="1.0-2", architecture="arm64")
    repository.publish()
    assert debian_kernel.key_parts(recipe("linux-image-arm64"), build_context(tmp_path / "three")) != parts


@pytest.mark.slow
@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("package", "arch", "reported"),
    [
        ("linux-image-vax", "arm64", "no package 'linux-image-vax' for arm64"),
        ("linux-source-6.1", "arm64", "kernel.package is 'linux-source-6.1'"),
        ("linux-image-parisc", "parisc", "kernel.package is 'linux-image-parisc'"),
    ],
)
def test_a_package_that_is_no_kernel_is_one_line(tmp_path: Path, package: str, arch: str, reported: str) -> None:
    with pytest.raises(RecipeError, match=reported) as caught:
        debian_kernel.key_parts(recipe(package, arch), build_context(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_modules_of_a_divided_kernel_are_in_a_package_of_their_own(
    tmp_path: Path, repository: Repository, modules: Path
) -> None:
    """As since 7.3: the image has no modules and depends on linux-modules of its release."""
    release = "7.3.0-1-arm64"
    named = {f"usr/lib/modules/{release}/{each.relative_to(modules)}": each for each in modules.rglob("*.*")}
    divided = f"linux-binary-{release} (= 7.3), linux-modules-{release} (= 7.3)"
    repository.add(f"linux-image-{release}", {"usr/share/a": "a"}, depends=f"kmod, {divided}", architecture="arm64")
    repository.add(f"linux-binary-{release}", {f"usr/lib/modules/{release}/vmlinuz": "k"}, architecture="arm64")
    contents = {name: each.read_bytes() for name, each in named.items()}
    repository.add(f"linux-modules-{release}", contents, architecture="arm64")
    repository.publish()
    image = Image(recipe("linux-image-arm64"), "key", *(Path("x"),) * 3, {}, release, "", {}, {})
    found = packaged_kernel_module_by_name.obtain_module_with_dependencies("virt-bus", image, build_context(tmp_path))
    assert [each.name for each in found] == ["00-virt_ring.ko", "01-virt_bus.ko"]
    with pytest.raises(UsageError, match="vm has no module tulip"):
        packaged_kernel_module_by_name.obtain_module_with_dependencies("tulip", image, build_context(tmp_path))

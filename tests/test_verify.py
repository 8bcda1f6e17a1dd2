"""`./pinpoint verify` refuses bad input with one line and the right status before a guest boots."""

from __future__ import annotations

import subprocess
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from harness import cli, cli_verify
from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.core.errors import BootError, UsageError
from harness.core.events import Bus
from harness.guest.guest import Guest
from harness.images import external_ko_elf_check, modinfo_and_load_checks
from harness.images.appended_module_signature import demand_readable_signature
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kernel import ModuleBuildTrees
from harness.images.vm_recipe import Recipe
from harness.landing.code import kprobe_sites_in_module_file
from harness.landing.code.system_map import SystemMap
from harness.landing.site import Site
from harness.landing.verify.guest_text_changes import TextRegion
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict, judged_table
from harness.matrix.verify import guest_start_and_kernel_complaints as guests
from harness.matrix.verify import plan
from harness.matrix.verify.plan import VerifyRequest, parse_expected_site
from harness.matrix.verify.report import Report

X86 = ARCHITECTURES["x86_64"]
RELEASE = "6.1.0-test"
SIGNED = b"~Module signature appended~\n"

MODULE = f"""\
struct list {{ void *next, *prev; }};
struct kprobe {{ struct list hash, list; unsigned long missed; void *addr; const char *name; unsigned int offset; }};
#define INFO(tag, text) static const char tag[] __attribute__((section(".modinfo"), used)) = #tag "=" text
INFO(vermagic, "{RELEASE} SMP mod_unload ");
INFO(name, "my_probe");
char this_module[64] __attribute__((section(".gnu.linkonce.this_module"))) = {{ 1 }};
int leaf(int x) {{ return x + 1; }}
struct kprobe first = {{ .name = "vfs_read", .offset = 4 }};
struct kprobe second = {{ .name = "ext4:ext4_sync_file" }};
struct kprobe by_address = {{ .addr = leaf }};
const char *no_probe[2] = {{ "vfs_write", 0 }};
"""


def compiled(directory: Path, text: str = MODULE, *flags: str) -> Path:
    source, module = directory / "my-probe.c", directory / "my-probe.ko"
    source.write_text(text)
    command = ["x86_64-linux-gnu-gcc", "-fno-pic", "-fno-common", "-ffreestanding", *flags, "-c", source, "-o", module]
    subprocess.run(command, check=True)
    return module


@pytest.fixture
def module(tmp_path: Path) -> Path:
    return compiled(tmp_path)


def recipe(arch: str = "x86_64") -> Recipe:
    kernel = {"source": "debian-source", "package": "linux-source"}
    return Recipe.model_validate({"name": "vm", "arch": arch, "describe": "a test", "kernel": kernel})


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """Return the image of a kernel with two hundred functions."""
    source, vmlinux = tmp_path / "kernel.c", tmp_path / "vmlinux"
    source.write_text("\n".join(f"int f{number}(void) {{ return {number}; }}" for number in range(200)))
    subprocess.run(["x86_64-linux-gnu-gcc", "-nostdlib", "-static", "-Wl,-ef0", source, "-o", vmlinux], check=True)
    return Image(recipe(), "key", vmlinux, vmlinux, vmlinux, {}, RELEASE, "", {}, {})


def mapped(image: Image, shift: int = 0) -> str:
    functions = [symbol for symbol in Elf.read(image.vmlinux).symbols if symbol.kind == "func"]
    return "".join(f"{symbol.address + index * shift:016x} T {symbol.name}\n" for index, symbol in enumerate(functions))


def refused(file: Path, *, by: str = "x86_64") -> str:
    with pytest.raises(UsageError) as caught:
        external_ko_elf_check.read_module_elf(file, ARCHITECTURES[by])
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_a_module_is_read_and_known_by_the_kernels_name(module: Path) -> None:
    assert modinfo_and_load_checks.module_name(external_ko_elf_check.read_module_elf(module, X86), module) == "my_probe"


def test_without_a_name_of_its_own_a_module_is_called_after_its_file(tmp_path: Path) -> None:
    module = compiled(tmp_path, MODULE.replace('INFO(name, "my_probe");', ""))
    assert modinfo_and_load_checks.module_name(external_ko_elf_check.read_module_elf(module, X86), module) == "my_probe"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.ko")


def test_a_directory(tmp_path: Path) -> None:
    assert "directory" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF"], ids=["empty", "script", "cut"])
def test_no_elf(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "odd.ko"
    file.write_bytes(content)
    assert "give the .ko file that kbuild made" in refused(file)


def test_half_a_module(module: Path) -> None:
    module.write_bytes(module.read_bytes()[: module.stat().st_size // 2])
    assert "not a whole ELF file" in refused(module)


def test_a_program(image: Image) -> None:
    assert "linked program or library, not a module" in refused(image.vmlinux)


def test_an_object_file_that_is_no_module(tmp_path: Path) -> None:
    assert "object file, not a module" in refused(compiled(tmp_path, "int leaf(int x) { return x; }\n"))


def test_another_architecture_names_both(module: Path) -> None:
    reported = refused(module, by="parisc")
    assert "EM_X86_64, 64 bit" in reported
    assert "EM_PARISC, 32 bit" in reported


def test_another_word_size(tmp_path: Path) -> None:
    assert "EM_X86_64, 32 bit" in refused(compiled(tmp_path, MODULE, "-mx32"))


def test_a_stripped_module(module: Path) -> None:
    subprocess.run(["x86_64-linux-gnu-objcopy", "--strip-all", module], check=True)
    assert "no symbol table; give the file before it was stripped" in refused(module)


def test_debug_information_is_not_needed(module: Path) -> None:
    subprocess.run(["x86_64-linux-gnu-objcopy", "--strip-debug", module], check=True)
    external_ko_elf_check.read_module_elf(module, X86)


def test_another_kernels_module_names_both_releases(tmp_path: Path, image: Image) -> None:
    file = compiled(tmp_path, MODULE.replace(RELEASE, "5.10.0-old"))
    elf = external_ko_elf_check.read_module_elf(file, X86)
    with pytest.raises(UsageError, match=f"built for the kernel 5.10.0-old, but vm runs {RELEASE}"):
        modinfo_and_load_checks.demand_vermagic(elf, file, image)


@pytest.mark.parametrize(
    ("end", "checks", "damaged"),
    [
        (b"", "y", False),
        (b"signed" + bytes((0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 6)) + SIGNED, "y", False),
        (b"signed" + bytes((0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 6)) + SIGNED, "y", True),
        (b"signed" + bytes((0, 0, 2, 0, 0, 0, 0, 0, 127, 0, 0, 6)) + SIGNED, "y", True),
        (b"x" * 12 + SIGNED, "y", True),
        (b"x" * 12 + SIGNED, "n", False),
    ],
)
def test_a_damaged_signature_is_refused_before_a_boot(
    module: Path, image: Image, end: bytes, checks: str, damaged: bool
) -> None:
    """A kernel without CONFIG_MODULE_SIG does not read it, and one with it does not know the key of a whole one."""
    module.write_bytes(module.read_bytes() + end)
    kernel = replace(image, config={"CONFIG_MODULE_SIG": checks})
    expected = pytest.raises(UsageError, match=r"given\.ko: has a damaged signature") if damaged else nullcontext()
    with expected:
        demand_readable_signature(module, Path("given.ko"), kernel)


def test_a_module_of_no_known_kernel(tmp_path: Path, image: Image) -> None:
    file = compiled(tmp_path, MODULE.replace("vermagic", "author"))
    elf = external_ko_elf_check.read_module_elf(file, X86)
    with pytest.raises(UsageError, match=r"built for the kernel \(no release\)"):
        modinfo_and_load_checks.demand_vermagic(elf, file, image)


def test_the_kernels_own_map_names_its_addresses(tmp_path: Path, image: Image) -> None:
    path = tmp_path / "System.map"
    path.write_text(mapped(image) + "0000000000001000 D not_text\n")
    names, kernel = SystemMap.read(path), Elf.read(image.vmlinux)
    names.demand_map_of(kernel)
    assert names.describe_address(kernel.function("f7").address + 3) == "f7+0x3"
    assert names.describe_address(0) == ""


def test_the_error_of_another_kernels_map_counts_the_names_that_agree(tmp_path: Path, image: Image) -> None:
    path = tmp_path / "System.map"
    path.write_text(mapped(image, shift=16))
    with pytest.raises(UsageError, match="is of another kernel: 1 of 200 names") as caught:
        SystemMap.read(path).demand_map_of(Elf.read(image.vmlinux))
    assert caught.value.exit_status == 2


def test_a_map_that_shares_no_name(tmp_path: Path, image: Image) -> None:
    path = tmp_path / "System.map"
    path.write_text(mapped(image).replace(" T f", " T g"))
    with pytest.raises(UsageError, match="0 of 0 names"):
        SystemMap.read(path).demand_map_of(Elf.read(image.vmlinux))


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"ffffffffffffffff B The real System.map is in the linux-image-dbg package\n", ":1: not a symbol"),
        (b"0000 T f\n\n", ":2: not a symbol"),
        (b"zzzz T f\n", ":1: not a symbol"),
        (b"0000000000001000 T f\n", "has 1 text symbols"),
        (b"", "has 0 text symbols"),
        (b"\x7fELF\xff\xfe", "is not a text file"),
    ],
)
def test_what_is_no_map(tmp_path: Path, content: bytes, reported: str) -> None:
    path = tmp_path / "System.map"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        SystemMap.read(path)
    assert reported in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_sites_of_a_file_are_read(module: Path) -> None:
    assert kprobe_sites_in_module_file.find_kprobe_sites(Elf.read(module)) == [
        Site("vfs_read", 4),
        Site("ext4_sync_file", 0, "ext4"),
    ]


def test_text_tells_where_it_differs() -> None:
    before, after = bytes(9000), bytearray(9000)
    after[1], after[8191], after[8999] = 1, 2, 3
    differing = TextRegion(0x1000, before).differing_addresses(TextRegion(0x1000, bytes(after)))
    assert list(differing) == [0x1001, 0x1000 + 8191, 0x1000 + 8999]
    assert TextRegion(0x1000, before).end == 0x1000 + 9000
    assert TextRegion(0x1000, bytes(after)).bytes_at(0x1001, 2) == b"\x01\x00"


def test_the_table_has_a_line_for_each_probe() -> None:
    landed = JudgedProbe(
        "good+0x4", "kprobe", ProbeVerdict.LANDED, 0x1004, "good+0x4", "55 became cc", notes=("first of 2",)
    )
    missed = JudgedProbe("bad+0x4", "fentry", ProbeVerdict.MISSED, reason="no call")
    header, first, second = judged_table([landed, missed]).splitlines()
    assert header.split() == ["probe", "address", "means", "memory", "owner", "verdict"]
    assert " ".join(first.split()) == "good+0x4 0x1004 good+0x4 55 became cc - landed (first of 2)"
    assert " ".join(second.split()) == "bad+0x4 fentry - - - - missed: no call"


def test_what_a_loop_registers_is_one_line() -> None:
    first = JudgedProbe("f+0x0", "kprobe", ProbeVerdict.GONE, 0x10, "f+0x0", seconds_since_start=1.0)
    again = replace(first, notes=("registered 2.0 s later",), seconds_since_start=2.0)
    late = replace(again, verdict=ProbeVerdict.LATE)
    landed = replace(first, verdict=ProbeVerdict.LANDED)
    lines = [" ".join(line.split()) for line in judged_table([first, again, late, again, landed, landed]).splitlines()]
    assert lines[1:] == [
        "f+0x0 0x10 f+0x0 - - gone, 3 times",
        "f+0x0 0x10 f+0x0 - - late (registered 2.0 s later)",
        *["f+0x0 0x10 f+0x0 - - landed"] * 2,
    ]


@pytest.mark.parametrize(
    ("word", "site"),
    [("f", Site("f")), ("f+0x10", Site("f", 16)), ("f+16", Site("f", 16)), ("m:f.cold+4", Site("f.cold", 4, "m"))],
)
def test_what_is_expected_is_a_site(word: str, site: Site) -> None:
    assert parse_expected_site(word) == site


@pytest.mark.parametrize("word", ["", "+4", "f+", "f+x", "f g", "m:", "f;reboot"])
def test_what_is_no_site_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="is no SYMBOL"):
        parse_expected_site(word)


@dataclass
class Booted:
    """Records the images of requested guests instead of booting them."""

    images: list[Image] = field(default_factory=list)

    def begin(self, image: Image, *_: object, **__: object) -> Guest:
        self.images.append(image)
        raise BootError("this test boots nothing", where=image.recipe.name)


@pytest.fixture
def booted(image: Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Booted:
    """Make `verify` use this image for every VM, and boot no guest."""
    found = Booted()
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cli_verify, "prepare", lambda *_, **__: image)
    monkeypatch.setattr(guests, "start_guest", found.begin)
    return found


def test_a_good_module_gets_as_far_as_the_guest(
    booted: Booted, module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", str(module), "--vm", "x86_64-debian"]) == 3
    assert len(booted.images) == 1
    assert "this test boots nothing" in capsys.readouterr().err


def test_a_module_that_one_vm_refuses_starts_no_guest(
    booted: Booted, module: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, image: Image
) -> None:
    images = iter([image, replace(image, release="6.12.0-other")])
    monkeypatch.setattr(cli_verify, "prepare", lambda *_, **__: next(images))
    assert cli.main(["verify", str(module), "--vm", "x86_64-debian", "--vm", "x86_64-debian-6.12"]) == 2
    assert booted.images == []
    assert "is built for the kernel" in capsys.readouterr().err


@pytest.mark.usefixtures("booted")
def test_a_vm_that_fails_does_not_hide_the_reports_of_others(
    module: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good = Report(
        "vm", RELEASE, "my-probe.ko", (JudgedProbe("f+0x0", "kprobe", ProbeVerdict.LANDED),), (), (), {}, tmp_path
    )
    outcomes = iter([BootError("it does not boot", where="vm"), good])

    def verify(*_: object) -> Report:
        outcome = next(outcomes)
        if isinstance(outcome, BootError):
            raise outcome
        return outcome

    monkeypatch.setattr(cli_verify.run, "verify_on_vm", verify)
    arguments = ["verify", str(module), "--vm", "x86_64-debian", "--vm", "x86_64-debian-6.12"]
    assert cli.main([*arguments, "--junit", str(tmp_path / "junit.xml")]) == 3
    printed = capsys.readouterr()
    assert "my-probe.ko on vm" in printed.out
    assert "it does not boot" in printed.err
    assert (tmp_path / "junit.xml").is_file()


def own_module(image: Image, tmp_path: Path, magic: str) -> Image:
    """Return the image with a module of its own that has the kernel's vermagic."""
    directory = tmp_path / "own"
    directory.mkdir()
    return replace(image, modules={"own": compiled(directory, MODULE.replace("SMP mod_unload ", magic))})


def test_other_words_behind_the_release_are_refused_with_both(image: Image, module: Path, tmp_path: Path) -> None:
    ours = own_module(image, tmp_path, "SMP preempt mod_unload modversions ")
    with pytest.raises(UsageError) as caught:
        modinfo_and_load_checks.demand_vermagic(Elf.read(module), module, ours)
    message = str(caught.value)
    assert f"{RELEASE} SMP mod_unload" in message
    assert f"{RELEASE} SMP preempt mod_unload modversions" in message
    modinfo_and_load_checks.demand_vermagic(Elf.read(module), module, own_module_same(image, module))


def own_module_same(image: Image, module: Path) -> Image:
    return replace(image, modules={"own": module})


def test_a_symbol_that_nobody_has_is_named(image: Image, tmp_path: Path) -> None:
    module = compiled(
        tmp_path, MODULE + "int no_such(void); int user(void) { return no_such() + f7(); }\nint f7(void);"
    )
    ours = with_symvers(image, tmp_path)
    elf = Elf.read(module)
    with pytest.raises(UsageError, match="needs no_such, which vm does not have"):
        modinfo_and_load_checks.demand_undefined_symbols_provided(elf, module, ours, [])
    other = tmp_path / "other"
    other.mkdir()
    giving = Elf.read(compiled(other, MODULE + "int no_such(void) { return 1; }"))
    modinfo_and_load_checks.demand_undefined_symbols_provided(elf, module, ours, [giving])


def with_symvers(image: Image, tmp_path: Path) -> Image:
    """Return the image with a tree whose Module.symvers has one symbol of a module of that kernel."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "Module.symvers").write_text("0x00000000\tvirtio_init\tdrivers/virtio/virtio\tEXPORT_SYMBOL\t\n")
    return replace(image, headers=ModuleBuildTrees(source=tree, objects=tree))


def test_two_modules_of_a_name_are_refused(image: Image, module: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    with pytest.raises(UsageError, match="two modules are named my_probe"):
        plan.modules_to_load(VerifyRequest([module, module]), image, BuildContext.in_cache(Bus()), private)


def test_an_archive_cannot_be_loaded_as_it_is_and_is_unpacked(image: Image, module: Path, tmp_path: Path) -> None:
    subprocess.run(["xz", module], check=True)
    private = tmp_path / "private"
    private.mkdir()
    (found,) = plan.modules_to_load(
        VerifyRequest([module.with_suffix(".ko.xz")]), image, BuildContext.in_cache(Bus()), private
    )
    assert found.name == "my_probe"
    assert found.copied_file.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize("name", ["parisc", "arm64-debian", "no-such-vm"])
def test_nothing_is_booted_for_what_cannot_be_right(
    booted: Booted, module: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", str(module), "--vm", name]) == 2
    assert booted.images == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pinpoint: ")


def test_nothing_is_booted_for_another_kernels_map(
    booted: Booted, image: Image, module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "System.map"
    path.write_text(mapped(image, shift=4))
    assert cli.main(["verify", str(module), "--vm", "x86_64-debian", "--system-map", str(path)]) == 2
    assert booted.images == []
    assert "is of another kernel" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--vm", "parisc"],
        ["a.ko"],
        ["a.ko", "--vm", "parisc", "--run", "true"],
        ["a.ko", "--vm", "parisc", "--with-package", "perf"],
        ["a.ko", "--vm", "parisc", "--param", "x"],
        ["a.ko", "--vm", "parisc", "--expect", "+4"],
        ["a.ko", "--vm", "parisc", "--settle", "-1"],
        ["a.ko", "--vm", "parisc", "--loader", ""],
        ["a.ko", "--vm", "parisc", "--junit", "/"],
        ["a.ko", "--vm", "parisc", "--junit", "/nosuch/junit.xml"],
        ["--vm", "parisc", "--run", "true", "--loader", "pinned"],
        ["--vm", "parisc", "--run", "true", "--param", "x=1"],
    ],
)
def test_wrong_use_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1

"""Module files of a user are copied, their parameters are read, and what cannot be loaded is refused in one line."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard
from test_verify import MODULE, compiled

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.core.errors import RecipeError, UsageError
from harness.images import external_build, kbuild, modinfo_and_load_checks
from harness.images.external_ko_decompressed_copy import private_copy
from harness.matrix.verify import plan

MODINFO = {
    "parm": 'INFO(parm, "site:the function to probe"); ',
    "type": 'static const char t[] __attribute__((section(".modinfo"), used)) = "parmtype=site:string"; ',
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "private"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress), (".zst", zstandard.compress)],
    ids=["plain", "xz", "gzip", "zstd"],
)
def test_a_copy_is_unpacked(tmp_path: Path, place: Path, suffix: str, pack: object) -> None:
    file = tmp_path / f"my-probe.ko{suffix}"
    file.write_bytes(pack(b"\x7fELF and more"))  # type: ignore[operator]
    copy = private_copy(file, place)
    assert copy.read_bytes() == b"\x7fELF and more"
    assert copy.parent == place
    assert copy.stat().st_mode & 0o077 == 0


def test_a_copy_stays_when_the_file_changes(tmp_path: Path, place: Path) -> None:
    file = tmp_path / "a.ko"
    file.write_bytes(b"one")
    copy = private_copy(file, place)
    file.write_bytes(b"")
    assert copy.read_bytes() == b"one"


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, zstandard.compress], ids=["xz", "gzip", "zstd"])
def test_half_an_archive_is_one_line(tmp_path: Path, place: Path, pack: object) -> None:
    file = tmp_path / "a.ko.packed"
    whole = pack(os.urandom(9000))  # type: ignore[operator]
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="does not unpack") as caught:
        private_copy(file, place)
    assert "\n" not in str(caught.value)


def test_a_pipe_does_not_hold_us(tmp_path: Path, place: Path) -> None:
    os.mkfifo(tmp_path / "a.ko")
    with pytest.raises(UsageError, match="not a regular file"):
        private_copy(tmp_path / "a.ko", place)


@pytest.mark.parametrize(
    ("word", "is_path"),
    [("ext4", False), ("./a", True), ("src/a", True), ("a.ko", True), ("a.ko.xz", True), ("a.c", True)],
)
def test_a_word_of_with_is_a_path_or_a_name(word: str, *, is_path: bool) -> None:
    assert (plan._path(word) is not None) == is_path


def test_a_module_to_load_first_is_checked_before_anything_is_built(tmp_path: Path, place: Path) -> None:
    module = compiled(tmp_path)
    recipe = SimpleNamespace(architecture=ARCHITECTURES["parisc"])
    wanted = plan.VerifyRequest([tmp_path], modules_loaded_first=[str(module), "ext4"])
    with pytest.raises(UsageError, match="EM_PARISC"):
        plan.demand_architecture(wanted, recipe, place)  # type: ignore[arg-type]


def test_a_directory_is_no_module(tmp_path: Path, place: Path) -> None:
    with pytest.raises(UsageError, match="is a directory; give the path of a kernel module"):
        private_copy(tmp_path, place)


@pytest.mark.slow
def test_an_archive_of_zeros_is_refused(tmp_path: Path, place: Path) -> None:
    file = tmp_path / "a.ko.xz"
    file.write_bytes(lzma.compress(bytes(300 << 20), preset=0))
    with pytest.raises(UsageError, match="more than 256 MiB"):
        private_copy(file, place)


@pytest.mark.parametrize("name", ["x;poweroff", "a b", "", "a" * 56, "../x", "$(reboot)"])
def test_a_name_that_a_shell_would_act_on_is_refused(tmp_path: Path, name: str) -> None:
    module = compiled(tmp_path, MODULE.replace('"my_probe"', f'"{name}"'))
    with pytest.raises(UsageError, match="calls itself") as caught:
        modinfo_and_load_checks.module_name(Elf.read(module), module)
    assert caught.value.exit_status == 2


def test_parameters_go_to_the_module_that_has_them(tmp_path: Path) -> None:
    module = compiled(tmp_path, MODULE + MODINFO["parm"] + MODINFO["type"])
    elf = Elf.read(module)
    assert modinfo_and_load_checks.parameters(elf) == {"site": "string, the function to probe"}
    assert modinfo_and_load_checks.assign_parameters_to_modules({"site": "a b"}, {"my_probe": elf}) == {
        "my_probe": ['site="a b"']
    }
    assert modinfo_and_load_checks.assign_parameters_to_modules({"my_probe.site": "x"}, {"my_probe": elf}) == {
        "my_probe": ["site=x"]
    }
    given = {"site": '"a b" c'}
    assert modinfo_and_load_checks.assign_parameters_to_modules(given, {"my_probe": elf})["my_probe"] == [
        'site="a b" c'
    ]
    with pytest.raises(UsageError, match="no parameter is named 'sight'; it has site"):
        modinfo_and_load_checks.assign_parameters_to_modules({"sight": "x"}, {"my_probe": elf})
    with pytest.raises(UsageError, match="no parameter"):
        modinfo_and_load_checks.assign_parameters_to_modules({"other.site": "x"}, {"my_probe": elf})


def test_a_tree_that_was_built_in_is_told_how_to_be_cleaned(tmp_path: Path) -> None:
    log = tmp_path / "make.log"
    output = (
        "make: Entering directory '/home/someone/linux'\n***\n"
        "*** The source tree is not clean, please run 'make ARCH=x86_64 mrproper'\n*** in /home/someone/linux\n***\n"
        "make[1]: *** [/home/someone/linux/Makefile:585: outputmakefile] Error 1\n"
    )
    script = tmp_path / "script"
    script.write_text(f"cat <<'.'\n{output}.\nexit 2\n")
    with pytest.raises(RecipeError) as caught:
        kbuild.run_logged(["sh", script], "make", log, deadline=kbuild.Deadline.after(10))
    assert caught.value.exit_status == 2
    assert str(caught.value).startswith("/home/someone/linux: ")
    assert "run `make ARCH=x86_64 mrproper` there" in str(caught.value)


CALLBACK = """
#define IN_PARAM __attribute__((section("__param"), used, aligned(8)))
struct kernel_param { const char *name; void *module; const void *ops; long permissions; void *argument; };
static const char __param_str_where[] = "where", __param_str_level[] = "level";
static struct kernel_param IN_PARAM where = { __param_str_where, 0, &where };
static struct kernel_param IN_PARAM level = { __param_str_level, 0, &where };
"""


@pytest.mark.parametrize("stripped", [False, True])
def test_a_parameter_without_a_type_is_known_by_its_name(tmp_path: Path, *, stripped: bool) -> None:
    module = compiled(tmp_path, MODULE + MODINFO["parm"] + MODINFO["type"] + CALLBACK)
    if stripped:
        subprocess.run(["x86_64-linux-gnu-strip", "--strip-unneeded", module], check=True)
    elf = Elf.read(module)
    assert modinfo_and_load_checks.parameters(elf) == {
        "site": "string, the function to probe",
        "where": "",
        "level": "",
    }
    words = modinfo_and_load_checks.assign_parameters_to_modules({"where": "x"}, {"my_probe": elf})
    assert words == {"my_probe": ["where=x"]}


@pytest.mark.parametrize("made", ["nothing", "empty", "file"])
def test_what_cannot_be_built_is_one_line(tmp_path: Path, made: str) -> None:
    source = tmp_path / "source"
    if made == "empty":
        source.mkdir()
    elif made == "file":
        source = tmp_path / "gone.c"
    with pytest.raises(UsageError) as caught:
        external_build._lay_out(source, tmp_path / "scratch")
    assert "\n" not in str(caught.value)

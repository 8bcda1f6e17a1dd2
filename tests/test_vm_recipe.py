"""Good recipes are accepted; any mistake is one line with the file, the key and the fix."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import sparse_files

from harness.core import paths
from harness.core.architecture_table import ARCHITECTURES
from harness.core.errors import RecipeError, UsageError
from harness.images.recipe_files import fragment_or_patch_path
from harness.images.vm_recipe import Recipe, load, load_all, select

GOOD = """
name = "vm"
arch = "x86_64"
describe = "a test"
[kernel]
source = "debian-source"
package = "linux-source-6.1"
config = ["base"]
patches = ["fix"]
cflags = "-ffunction-sections"
[machine]
memory_mib = 256
[traits]
kaslr = true
"""


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of recipes with one fragment and one patch."""
    monkeypatch.setattr(paths, "RECIPES", tmp_path / "vm_images")
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    for name in ("config/base.config", "patches/fix.patch"):
        (tmp_path / "vm_images" / name).parent.mkdir(parents=True)
        (tmp_path / "vm_images" / name).touch()
    return tmp_path / "vm_images"


def written(recipes: Path, text: str, name: str = "vm.toml") -> Path:
    path = recipes / name
    path.write_text(text)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path.name}: ")
    return str(caught.value)


def test_a_good_recipe_is_read(recipes: Path) -> None:
    recipe = load(written(recipes, GOOD))
    assert recipe.architecture.debian == "amd64"
    assert (recipe.kernel.config, recipe.kernel.patches) == (("base",), ("fix",))
    assert (recipe.machine.memory_mib, recipe.machine.cpus, recipe.machine.boot) == (256, 1, "image")
    assert recipe.traits.kaslr
    assert not recipe.traits.module_stubs
    assert recipe.tier == "core"


def test_a_kernel_may_come_from_another_suite(recipes: Path) -> None:
    assert load(written(recipes, GOOD)).kernel.suite == ""
    for suite in ("sid", "bullseye", "bookworm-backports", "bookworm-backports-sloppy"):
        assert load(written(recipes, GOOD.replace("[kernel]", f'[kernel]\nsuite = "{suite}"'))).kernel.suite == suite


def test_a_recipe_may_name_the_cpu_and_only_the_cpu_of_its_architecture_changes(recipes: Path) -> None:
    assert load(written(recipes, GOOD)).architecture is ARCHITECTURES["x86_64"]
    for cpu in ("cortex-a76", "qemu64,+rdrand", "max,lpa2=off", "EPYC-Milan-v2", "Westmere,-avx,+x2apic"):
        found = load(written(recipes, GOOD.replace("[machine]", f'[machine]\ncpu = "{cpu}"'))).architecture
        assert found.qemu_machine.cpu == cpu
        usual = ARCHITECTURES["x86_64"]
        assert replace(found, qemu_machine=replace(found.qemu_machine, cpu=usual.qemu_machine.cpu)) == usual


def test_a_kernel_may_name_the_one_it_is_compared_with(recipes: Path) -> None:
    written(recipes, "not read", "other.toml")
    assert load(written(recipes, GOOD)).kernel.sibling == ""
    assert load(written(recipes, GOOD.replace("[kernel]", '[kernel]\nsibling = "other"'))).kernel.sibling == "other"


@pytest.mark.parametrize(
    ("old", "new", "reported"),
    [
        ('describe = "a test"', 'descrbe = "a test"', "unknown key `descrbe`"),
        ("[machine]", "[machine]\nmemory = 1", "unknown key `machine.memory`"),
        ("[traits]", "[traits]\nkprobe = true", "unknown key `traits.kprobe`"),
        ('arch = "x86_64"\n', "", "key `arch` is missing"),
        ('[kernel]\nsource = "debian-source"', "[kernel]", "key `kernel.source` is missing"),
        ("memory_mib = 256", 'memory_mib = "256"', "`machine.memory_mib` should be a valid integer; it is '256' now"),
        ("memory_mib = 256", "memory_mib = 1", "`machine.memory_mib` should be greater than or equal to 64"),
        ("kaslr = true", "kaslr = 1", "`traits.kaslr` should be a valid boolean; it is 1 now"),
        ('config = ["base"]', 'config = "base"', "`kernel.config` should be a valid tuple; it is 'base' now"),
        ('["base"]', '["base"]\nnot_for_trees = ["ibt"]', "`kernel`: not_for_trees names what is not in config"),
        ('config = ["base"]', "config = [1]", "`kernel.config.0` should be a valid string; it is 1 now"),
        ('source = "debian-source"', 'source = "ubuntu"', "`kernel.source` should be 'debian-binary', 'debian-source'"),
        ('source = "debian-source"', 'source = "debian-binary"', "`kernel`: a binary kernel takes no config"),
        ('source = "debian-source"', 'source = "tree"', "`kernel`: source 'tree' needs `tree`"),
        (
            'source = "debian-source"',
            'source = "tree"\ntree = "."\nversion = "6.18.15-1"',
            "`kernel`: version is for source 'debian-source'",
        ),
        ("[kernel]", '[kernel]\nversion = "6.18 x"', "`kernel.version` String should match pattern"),
        ("[kernel]", '[kernel]\nsuite = "Debian 11"', "`kernel`: suite 'Debian 11' is not named like a Debian suite"),
        ('source = "debian-source"', 'source = "tree"\ntree = "."\nsuite = "sid"', "a tree of your own has no suite"),
        ('package = "linux-source-6.1"\n', "", "`kernel`: source 'debian-source' needs `package`"),
        (
            'arch = "x86_64"',
            'arch = "vax"',
            f"arch 'vax' is none of {', '.join(sorted(ARCHITECTURES))}",
        ),
        ('name = "vm"', 'name = "other"', "name is 'other'; make it 'vm', the file's name"),
        ('["base"]', '["base", "nonesuch"]', "kernel.config names 'nonesuch'; create vm_images/config/nonesuch.config"),
        ('["fix"]', '["nonesuch"]', "kernel.patches names 'nonesuch'; create vm_images/patches/nonesuch.patch"),
        ("[kernel]", '[kernel]\nsibling = "vm"', "kernel.sibling is the VM itself"),
        ("[kernel]", '[kernel]\nsibling = "nonesuch"', "kernel.sibling names 'nonesuch'; one of: other"),
        ("[kernel]", "[kernel]\nsibling = true", "`kernel.sibling` should be a valid string; it is True now"),
        ("[machine]", "[machine]\ncpu = 76", "`machine.cpu` should be a valid string; it is 76 now"),
        *(
            ("[machine]", f'[machine]\ncpu = "{value}"', f"`machine.cpu`: {value!r} is not named like a CPU model")
            for value in ("-cpu", "a b", "max,", "max,,sve=off", "max,sve=", "a;b", "é")
        ),
        *(
            ('cflags = "-ffunction-sections"', f'cflags = "-O2 {flag}"', f"{flag!r} is not an option of gcc")
            for flag in ("-fplugin=x.so", "-specs=x", "-B.", "@x", "-wrapper", "-Wl,-x", "-I/x", "-include")
        ),
        ("[kernel]", "[kernel", "not TOML: "),
        ("[traits]", "[machine]", "not TOML: "),
    ],
)
def test_every_mistake_is_one_line(recipes: Path, old: str, new: str, reported: str) -> None:
    assert old in GOOD
    written(recipes, GOOD.replace('"vm"', '"other"'), "other.toml")
    assert reported in complaint(written(recipes, GOOD.replace(old, new, 1)))


def test_a_complaint_about_a_value_does_not_print_the_whole_recipe(recipes: Path) -> None:
    assert "linux-source" not in complaint(written(recipes, GOOD.replace('"x86_64"', '"vax"')))


@pytest.mark.parametrize("arch", ["mips64el", "mips", "sh4", "sparc64"])
def test_a_second_cpu_is_refused_where_no_machine_has_it(recipes: Path, arch: str) -> None:
    own = GOOD.replace('arch = "x86_64"', f'arch = "{arch}"').replace("[machine]", "[machine]\ncpus = 2")
    assert f"machine.cpus 2 is not for {arch}: " in complaint(written(recipes, own))
    # 34Kf has the MT extension.
    assert load(written(recipes, own.replace("cpus = 2", 'cpus = 2\ncpu = "34Kf"'))).machine.cpus == 2


def test_pvh_is_refused_where_no_kernel_has_it(recipes: Path) -> None:
    path = recipes / "vm.toml"
    path.write_text(GOOD.replace('arch = "x86_64"', 'arch = "parisc"').replace("[machine]", '[machine]\nboot = "pvh"'))
    with pytest.raises(RecipeError, match=r"machine\.boot 'pvh' is not for parisc"):
        load(path)


def test_bytes_that_are_no_text(recipes: Path) -> None:
    path = recipes / "vm.toml"
    path.write_bytes(b'name = "\xff"\n')
    assert "not UTF-8 at byte 8" in complaint(path)


def test_a_recipe_that_is_not_there(recipes: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        load(recipes / "nonesuch.toml")


@pytest.mark.parametrize("name", ["vm.toml", "config/base.config", "patches/fix.patch"])
@pytest.mark.parametrize(
    ("make", "reported"),
    [
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda path: path.mkdir(), "[Ii]s a directory"),
        (sparse_files.make_sparse, "is larger than"),
        (lambda path: path.write_bytes(b"\xff"), "not UTF-8 at byte 0"),
    ],
    ids=["fifo", "device", "directory", "sparse", "bytes"],
)
def test_files_of_a_recipe_are_texts_of_bounded_size(
    recipes: Path, name: str, make: Callable[[Path], object], reported: str
) -> None:
    written(recipes, GOOD)
    (recipes / name).unlink()
    make(recipes / name)
    with pytest.raises(RecipeError, match=reported) as caught:
        load(recipes / "vm.toml")
    assert Path(name).name in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[machine]", f"[machine]\nqemu = '>= {'9' * 5000}'"),
        ("[kernel]", f"[kernel]\nsuite = '{'a' * 1500}'"),
        ("[kernel]", f"[kernel]\nsuite = 'sid'\ncompiler = 'gcc-{'9' * 1500}'"),
    ],
    ids=["qemu", "suite", "compiler"],
)
def test_versions_and_suites_are_short(recipes: Path, old: str, new: str) -> None:
    assert len(complaint(written(recipes, GOOD.replace(old, new, 1)))) < 400


def test_an_empty_file_misses_its_first_key(recipes: Path) -> None:
    assert "key `name` is missing" in complaint(written(recipes, ""))


def test_parts_are_found_with_and_without_their_suffix(recipes: Path) -> None:
    assert (
        fragment_or_patch_path("config", "base")
        == fragment_or_patch_path("config", "base.config")
        == recipes / "config/base.config"
    )
    assert fragment_or_patch_path("patches", "fix") == recipes / "patches/fix.patch"


def test_selecting_by_name(recipes: Path) -> None:
    written(recipes, GOOD)
    written(recipes, GOOD.replace('"vm"', '"extra"').replace("[kernel]", 'tier = "full"\n[kernel]', 1), "extra.toml")
    assert [recipe.name for recipe in select([], recipes)] == ["vm"]
    assert [recipe.name for recipe in select(["extra", "vm", "extra"], recipes)] == ["extra", "vm"]
    assert [recipe.name for recipe in select(["extra,vm", "vm"], recipes)] == ["extra", "vm"]
    assert [recipe.name for recipe in select([","], recipes)] == ["vm"]
    with pytest.raises(UsageError, match="no VM named 'x86'; one of: extra, vm"):
        select(["x86"], recipes)


def test_selecting_by_architecture_and_tier(recipes: Path) -> None:
    written(recipes, GOOD)
    written(recipes, GOOD.replace('"vm"', '"extra"').replace("[kernel]", 'tier = "full"\n[kernel]', 1), "extra.toml")
    other = (
        GOOD.replace('"vm"', '"other"').replace('"x86_64"', '"arm64"').replace("[kernel]", 'tier = "full"\n[kernel]', 1)
    )
    written(recipes, other, "other.toml")
    # One with kernel mutants is selected by its name alone.
    broken = GOOD.replace('"vm"', '"broken"').replace("[kernel]", 'tier = "full"\nkernel_mutants = true\n[kernel]', 1)
    written(recipes, broken, "broken.toml")
    assert [recipe.name for recipe in select(["broken"], recipes)] == ["broken"]

    def names(archs: Sequence[str] = (), matrix: Literal["core", "full"] | None = None) -> list[str]:
        return [recipe.name for recipe in select([], recipes, architectures=archs, matrix=matrix)]

    assert names(matrix="full") == ["extra", "other", "vm"]
    assert names(matrix="core") == ["vm"] == names()
    assert names(["x86_64"]) == ["extra", "vm"]
    assert names(["x86_64"], "core") == ["vm"]
    assert names(["arm64"]) == ["other"]
    assert names(["arm64,x86_64"]) == ["extra", "other", "vm"]
    with pytest.raises(UsageError, match="no architecture named 'vax'; one of: arm64, "):
        names(["vax"])
    with pytest.raises(UsageError, match="no VM of arm64 is in the matrix"):
        names(["arm64"], "core")
    with pytest.raises(UsageError, match="give one or the other"):
        select(["vm"], recipes, architectures=["x86_64"])


def test_another_recipes_mistake_does_not_stop_a_named_one(recipes: Path) -> None:
    written(recipes, GOOD)
    written(recipes, "broken", "broken.toml")
    assert [recipe.name for recipe in select(["vm"], recipes)] == ["vm"]
    with pytest.raises(RecipeError, match="not TOML"):
        select([], recipes)


def test_the_projects_own_recipes_are_good() -> None:
    found: dict[str, Recipe] = load_all()
    assert {"x86_64-debian", "arm64-debian"} <= set(found)
    assert all(recipe.describe for recipe in found.values())

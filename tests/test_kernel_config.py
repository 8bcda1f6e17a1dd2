"""Kernel config fragments are merged in order and checked against Kconfig's result; errors name the option."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.errors import RecipeError
from harness.images import kernel_config

KCONFIG = """\
config KPROBES
\tbool "Kprobes"
\tdepends on MODULES
\tdepends on HAVE_KPROBES
\tselect KALLSYMS

menuconfig NET
\tbool "Networking"

config TULIP
\ttristate "DECchip Tulip"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a kernel tree with one Kconfig file."""
    tree = tmp_path / "linux"
    (tree / "kernel").mkdir(parents=True)
    (tree / "kernel" / "Kconfig").write_text(KCONFIG)
    return tree


def fragment(directory: Path, name: str, text: str) -> Path:
    path = directory / f"{name}.config"
    path.write_text(text)
    return path


def merged(directory: Path, *texts: str) -> dict[str, kernel_config.Wish]:
    return kernel_config.merge([fragment(directory, f"part{number}", text) for number, text in enumerate(texts)])


def test_a_later_fragment_overrides_and_is_named(tmp_path: Path) -> None:
    wishes = merged(tmp_path, "CONFIG_SMP=y\nCONFIG_NET=y\n", "# of this one\n\n# CONFIG_SMP is not set\n")
    assert kernel_config.allconfig_text(wishes) == "# CONFIG_SMP is not set\nCONFIG_NET=y\n"
    assert wishes["CONFIG_SMP"].file_and_line == "part1.config:3"


def test_off_has_two_spellings(tmp_path: Path) -> None:
    wishes = merged(tmp_path, "CONFIG_A=n\n# CONFIG_B is not set\n")
    assert {wish.value for wish in wishes.values()} == {kernel_config.OFF}


@pytest.mark.parametrize("line", ["KPROBES=y", "CONFIG_KPROBES", "CONFIG_KPROBES =y", "CONFIG_KPROBES="])
def test_a_line_that_is_no_option_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        kernel_config.read_fragment(fragment(tmp_path, "bad", f"CONFIG_NET=y\n{line}\n"))
    assert str(caught.value).startswith(f"bad.config:2: not a kernel option: {line!r}")


def test_an_option_asked_for_twice_in_one_fragment(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"bad\.config:2: CONFIG_NET is set twice; remove this or line 1"):
        kernel_config.read_fragment(fragment(tmp_path, "bad", "CONFIG_NET=y\nCONFIG_NET=m\n"))


@pytest.mark.parametrize(
    ("text", "compiles"),
    [
        ("# why\nCONFIG_PINPOINT_TEXT_SORTED=y\n", False),
        ("CONFIG_PINPOINT_TEXT_SORTED=y\nCONFIG_SMP=y\n", True),
        ("CONFIG_SMP=n\n", True),
        ("# nothing\n", False),
    ],
)
def test_options_of_our_patches_change_no_object(tmp_path: Path, text: str, compiles: bool) -> None:
    assert kernel_config.fragment_affects_compilation(fragment(tmp_path, "part", text)) is compiles


def test_only_linker_scripts_read_the_options_of_our_patches() -> None:
    for patch in (paths.RECIPES / "patches").glob("*.patch"):
        for file, changes in re.findall(r"^\+\+\+ b/(\S+)\n((?:[-+ @].*\n)*)", patch.read_text(), re.MULTILINE):
            if "PINPOINT_" in changes:
                assert Path(file).name.startswith(("vmlinux.lds.", "Kconfig")), f"{patch.name}: {file}"


def test_a_config_is_read_as_written() -> None:
    text = '# comment\nCONFIG_NET=y\nCONFIG_TULIP=m\n# CONFIG_SMP is not set\nCONFIG_HZ=250\nCONFIG_LOCALVERSION="-x"\n'
    assert kernel_config.parse_set_options(text) == {
        "CONFIG_NET": "y",
        "CONFIG_TULIP": "m",
        "CONFIG_HZ": "250",
        "CONFIG_LOCALVERSION": '"-x"',
    }


def test_wishes_that_came_true_pass(tmp_path: Path, source: Path) -> None:
    wishes = merged(tmp_path, 'CONFIG_NET=y\nCONFIG_SMP=n\n# CONFIG_ABSENT is not set\nCONFIG_LOCALVERSION="-x"\n')
    kernel_config.check(wishes, {"CONFIG_NET": "y", "CONFIG_LOCALVERSION": '"-x"'}, source)


@pytest.mark.parametrize(
    ("wish", "result", "fate"),
    [
        ("CONFIG_TULIP=y", {"CONFIG_TULIP": "m"}, "CONFIG_TULIP=y was requested, but it is m in the result"),
        ("CONFIG_NET=n", {"CONFIG_NET": "y"}, "CONFIG_NET=n was requested, but it is y in the result"),
        ("CONFIG_NET=y", {}, "CONFIG_NET=y was requested, but it is off in the result"),
        ("CONFIG_KPROBES=y", {}, "it is off in the result: it depends on MODULES and HAVE_KPROBES"),
        ("CONFIG_KPROBE=y", {}, "CONFIG_KPROBE=y was requested, but linux has no such option"),
    ],
)
def test_an_option_that_kconfig_changed_is_reported_with_its_value(
    tmp_path: Path, source: Path, wish: str, result: dict[str, str], fate: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        kernel_config.check(merged(tmp_path, f"# why\n{wish}\n"), result, source)
    assert str(caught.value).startswith("part0.config:2: ")
    assert fate in str(caught.value)


def test_all_that_did_not_come_true_are_named(tmp_path: Path, source: Path) -> None:
    with pytest.raises(RecipeError, match=r"CONFIG_NET=y was .* \(and 2 more: CONFIG_TULIP, CONFIG_NO\)"):
        kernel_config.check(merged(tmp_path, "CONFIG_NET=y\nCONFIG_TULIP=m\nCONFIG_NO=y\n"), {}, source)


def test_an_overlay_replaces_earlier_values_of_its_options(tmp_path: Path) -> None:
    wishes = merged(tmp_path, "CONFIG_A=y\nCONFIG_B=n\n")
    text = kernel_config.overlay("# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_AB=y\n", wishes)
    assert kernel_config.parse_set_options(text) == {"CONFIG_A": "y", "CONFIG_AB": "y"}
    assert text.count("CONFIG_B ") == 1

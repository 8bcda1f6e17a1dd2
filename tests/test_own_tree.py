"""The directory of --project: its recipes, modules and cases are added to ours, and what is wrong in it is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from test_replay import Runs, cell, repro

from harness import cli
from harness.core import own_tree, paths
from harness.core.errors import UsageError
from harness.core.events import Bus
from harness.core.files import sha256
from harness.images import external_build, own_tree_modules
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.image import Image
from harness.images.store import Store
from harness.images.vm_recipe import load_all, select
from harness.matrix.cells.selection import CellId
from harness.matrix.commands import pytest_run, replay
from harness.report import bundle
from harness.report.bundle import BundleDescription
from harness.report.page.case_docstrings import read_claims

RECIPE = """\
name = "mine"
arch = "x86_64"
describe = "my own kernel"
tier = "full"

[kernel]
source = "debian-source"
package = "linux-source-6.1"
config = ["base", "x86_64", "my-driver"]
"""
CASE = '"""My claims."""\n\n\ndef test_mine(vm):\n    """My claim."""\n'
FILE = "cases/test_mine.py"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a tree with a recipe, a fragment and a case; without a call of use_own_tree() it is not in use."""
    # Recorded first, so that monkeypatch removes what use_own_tree() sets.
    monkeypatch.setenv(paths.OWN_TREE, "")
    # The case file is imported in this process, from another directory in each test.
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "test_mine", raising=False)
    place = tmp_path.resolve() / "home" / "tree"
    for name, text in {
        "vm_images/mine.toml": RECIPE,
        "vm_images/config/my-driver.config": "CONFIG_E1000=y\n",
        FILE: CASE,
    }.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line with which a command refuses its input."""
    capsys.readouterr()
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    return printed.err


def test_its_recipes_are_added(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--project", str(tree), "--vm", "mine"]) == 0
    assert "my own kernel" in capsys.readouterr().out
    assert {"mine", "parisc"} <= set(load_all())
    assert "mine" in refusal(capsys, "list", "--project", str(tree), "--vm", "nosuch")


def test_without_the_option_they_are_unknown(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tree.is_dir()
    assert refusal(capsys, "list", "--vm", "mine").startswith("pinpoint: no VM named 'mine'")


def test_a_kernel_source_is_relative_to_the_tree(tree: Path) -> None:
    own_tree.use_own_tree(tree)
    text = RECIPE.replace('"debian-source"\npackage = "linux-source-6.1"', '"tree"\ntree = "../linux"')
    (tree / "vm_images" / "mine.toml").write_text(text)
    assert Path(select(["mine"])[0].kernel.tree).resolve() == tree.parent / "linux"


@pytest.mark.parametrize(
    ("changed", "printed"),
    [
        ({"vm_images/parisc.toml": RECIPE}, "/vm_images/parisc.toml; rename yours"),
        ({"vm_images/config/base.config": ""}, "/vm_images/config/base.config; rename yours"),
        ({"vm_images/patches/text-main.patch": ""}, "/vm_images/patches/text-main.patch; rename yours"),
        ({"cases/test_sites.py": CASE}, "/cases/test_sites.py; rename yours"),
        ({"vm_images/mine.toml": RECIPE + "memory = 1\n"}, "mine.toml: unknown key `kernel.memory`"),
        ({"vm_images/mine.toml": RECIPE.replace("my-driver", "nosuch")}, "mine.toml: kernel.config names 'nosuch'"),
    ],
    ids=["vm", "fragment", "patch", "case", "key", "no-fragment"],
)
def test_what_is_wrong_in_it_is_one_line(
    tree: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, str], printed: str
) -> None:
    for name, text in changed.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(text)
    line = refusal(capsys, "list", "--project", str(tree))
    assert printed in line
    if "rename yours" in printed:
        (name,) = changed
        assert line.startswith(f"pinpoint: {tree / name}: has the name of {paths.PROJECT / name};")


@pytest.mark.parametrize("command", ["run", "build", "list", "repro x", "shell --vm mine", "sites f --vm mine"])
@pytest.mark.parametrize("place", ["nosuch", "file", "empty"])
def test_a_directory_with_nothing_to_add_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, place: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    line = refusal(capsys, *command.split(), "--project", str(tmp_path / place))
    what = "has no vm_images/, probes/ or cases/" if place == "empty" else "--project names no directory"
    assert line.startswith(f"pinpoint: {tmp_path / place}: {what}; ")


def test_its_cases_are_named_as_ours_are(tree: Path) -> None:
    assert paths.case_file(FILE) == paths.PROJECT / FILE
    own_tree.use_own_tree(tree)
    assert paths.case_file(FILE) == tree / FILE
    assert paths.case_file("cases/test_sites.py") == paths.CASES / "test_sites.py"
    assert paths.case_name(tree / FILE, paths.PROJECT) == FILE
    assert paths.case_name(paths.CASES / "test_sites.py", paths.PROJECT) == "cases/test_sites.py"
    assert read_claims(FILE).claim_of_case("test_mine") == "My claim."


@pytest.mark.slow
def test_a_run_collects_its_cases_too(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[str] = []

    def run(arguments: Sequence[str], **_: object) -> int:
        handed.extend(arguments)
        return 0

    monkeypatch.setattr(pytest_run, "run", run)
    assert cli.main(["run", "--project", str(tree), "--vm", "mine"]) == 0
    assert [word for word in handed if not word.startswith("-")][-2:] == [str(paths.CASES), str(tree / "cases")]
    handed.clear()
    assert cli.main(["run", "--project", str(tree), "--vm", "mine", str(tree / FILE)]) == 0
    assert str(paths.CASES) not in handed
    assert handed[-1] == str(tree / FILE)


@pytest.mark.slow
def test_a_case_that_cannot_be_imported_is_one_line(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / FILE).write_text("import there_is_no_such_module\n")
    own_tree.use_own_tree(tree)
    with pytest.raises(UsageError) as refused:
        pytest_run.demand_own_cases_import()
    line = "cannot be collected: ModuleNotFoundError: No module named 'there_is_no_such_module'; fix it"
    assert str(refused.value).startswith(f"{tree / FILE}: {line}")
    monkeypatch.setattr(pytest_run, "run", lambda *_, **__: pytest.fail("it ran"))
    assert line in refusal(capsys, "run", "--project", str(tree), "--vm", "mine")


@pytest.fixture
def place(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that writes a bundle of the tree's case."""
    monkeypatch.setattr(replay, "image_key", lambda *_: "0123")

    def write(options: Sequence[str] = ()) -> str:
        own = cell().model_copy(update={"file": FILE, "case": "test_mine", "vm": "parisc", "mutant": ""})
        hashes = {FILE: sha256(tree / FILE)}
        about = BundleDescription(cell=own, file=FILE, items=["test_mine[parisc]"], options=options, hashes=hashes)
        return str(bundle.write_bundle(tmp_path / "bundles", about, {"console.log": b""}))

    return write


@pytest.mark.slow
def test_a_replay_needs_the_directory_on_its_command_line(
    tree: Path, place: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs()
    assert repro(monkeypatch, runs, place()) == 2
    assert "and --project DIR for a case of your own tree" in capsys.readouterr().err
    repro(monkeypatch, runs, place(), "--project", str(tree))
    assert [words[-1] for words in runs.arguments] == [f"{tree / FILE}::test_mine[parisc]"]


def test_a_bundle_cannot_name_the_directory(
    tree: Path, place: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / FILE).write_text("raise SystemExit('it was imported')\n")
    runs = Runs()
    assert repro(monkeypatch, runs, place([f"--project={tree}"])) == 2
    assert "an option that no run records" in capsys.readouterr().err
    assert runs.arguments == []


def test_the_commands_that_are_printed_name_it(tree: Path, tmp_path: Path) -> None:
    own_tree.use_own_tree(tree)
    option = f" --project {tree}"
    assert CellId("test_mine", "mine", "", "test_mine[mine]").replay == (
        f"{paths.PROGRAM} run --vm mine{option} -k 'test_mine[mine]'"
    )
    assert bundle.command(tmp_path / "bundle") == f"{paths.PROGRAM} repro {tmp_path / 'bundle'}{option}"


@pytest.mark.slow
def test_no_conftest_above_the_tree_is_imported(tree: Path) -> None:
    for above in (tree.parent, tree.parent.parent):
        (above / "conftest.py").write_text("raise SystemExit('a conftest.py above the tree was imported')\n")
    (tree / "cases" / "conftest.py").write_text("import pytest\n\n@pytest.fixture\ndef own():\n    return 1\n")
    (tree / FILE).write_text("def test_mine(vm, own):\n    pass\n\n\ndef test_more(vm):\n    pass\n")
    (tree / "cases" / "test_more.py").write_text("def test_more(vm):\n    pass\n")
    words = ["run", "--project", ".", "--vm", "mine", "--co", "-q", FILE, "cases/test_more.py"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "harness.cli", *words],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(paths.PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line for line in done.stdout.splitlines() if "::" in line]
    cases = [(FILE, "test_mine"), (FILE, "test_more"), ("cases/test_more.py", "test_more")]
    assert names == [f"{os.path.relpath(tree / file, paths.PROJECT)}::{case}[mine]" for file, case in cases]


@pytest.fixture
def image(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Image]:
    """Return a function that adds the tree's modules to an image; a directory `a+b` builds a.ko and b.ko."""
    own_tree.use_own_tree(tree)

    def build(source: Path, _image: Image, _context: BuildContext, directory: Path, _flags: str) -> list[Path]:
        built = [directory / f"{name}.ko" for name in source.name.split("+")]
        for path in built:
            path.write_bytes((Path(sys.executable).resolve()).read_bytes())
        return built

    monkeypatch.setattr(external_build, "build", build)
    monkeypatch.setattr(own_tree_modules, "compiler_and_linker_versions", lambda _: "gcc")
    context = BuildContext(Store(tmp_path / "store", Bus()), cast(Packages, None), Bus())
    kernel, target = tmp_path / "kernel", {"pinpoint_target": tmp_path / "target.ko"}
    bare = Image(select(["x86_64-debian"])[0], "k", kernel, kernel, kernel, target, "6.1", "b1d", {}, {})
    return lambda: own_tree_modules.with_own_modules(bare, context)


def add_module(tree: Path, name: str) -> Path:
    directory = tree / "probes" / name
    directory.mkdir(parents=True)
    (directory / "Kbuild").write_text("obj-m := x.o\n")
    return directory


def test_its_modules_have_names_of_the_kernel_and_leave_the_image_key(tree: Path, image: Callable[[], Image]) -> None:
    add_module(tree, "my-ring+other")
    found = image()
    assert sorted(found.own_modules) == ["my_ring", "other"]
    assert found.key == "k"
    assert found.module("my_ring").name == "my-ring.ko"
    with pytest.raises(UsageError, match="no module named 'rnig'; your own are: my_ring, other"):
        found.module("rnig")


def test_a_module_is_built_again_only_when_its_source_changes(tree: Path, image: Callable[[], Image]) -> None:
    directory = add_module(tree, "ring")
    first = image().own_modules["ring"]
    (directory / "ring.o").write_text("a result of make\n")
    assert image().own_modules["ring"] == first
    before = own_tree_modules.source_hashes()
    (directory / "Kbuild").write_text("obj-m := ring.o\n")
    assert image().own_modules["ring"] != first
    assert own_tree_modules.source_hashes()["probes/ring"] != before["probes/ring"]
    shared = tree.parent / "shared"
    shared.mkdir()
    (shared / "shared.h").touch()
    (shared / "loop").symlink_to(directory)
    (directory / "include").symlink_to(shared)
    linked = image().own_modules["ring"]
    (shared / "shared.h").write_text("/* changed */\n")
    assert image().own_modules["ring"] != linked


@pytest.mark.parametrize("names", [["pinpoint_target"], ["ring", "ring+x"]], ids=["ours", "two"])
def test_two_modules_of_one_name_are_refused(tree: Path, image: Callable[[], Image], names: list[str]) -> None:
    for name in names:
        add_module(tree, name)
    with pytest.raises(UsageError, match="which another directory builds too; rename it") as refused:
        image()
    assert refused.value.where == str(tree / "probes" / names[-1])


def test_an_installed_pytest_gets_the_plugin_by_its_arguments() -> None:
    from harness import pytest_entry_point

    for args, wanted in (
        (["mine"], []),
        (["--vm=parisc"], ["harness.plugin"]),
        (["--project", "mine"], ["harness.plugin"]),
        ([f"{paths.CASES}/test_sites.py::test_x"], ["harness.plugin"]),
    ):
        loaded: list[str] = []
        config = SimpleNamespace(pluginmanager=SimpleNamespace(import_plugin=loaded.append))
        pytest_entry_point.pytest_load_initial_conftests(cast(pytest.Config, config), args)
        assert loaded == wanted, args

"""A source tree is unpacked once, patched copies leave it unchanged, and a patch that fails is named."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import cast

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import BuildError, HostError, RecipeError
from harness.core.events import Bus, ProgressStep
from harness.images import kernel_source_trees
from harness.images.debian_packages_by_name import Packages
from harness.images.vm_recipe import Recipe

PATCH = """\
Why this patch is there.

--- a/kernel/kprobes.c
+++ b/kernel/kprobes.c
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
"""


class TarballPackages:
    """A package source with one package that holds a tarball; it counts how often the package is unpacked."""

    def __init__(self, tarballs: int = 1) -> None:
        self.unpacked = 0
        self._tarballs = tarballs

    def fetch(self, package: str, architecture: str, *, deadline: Deadline) -> Path:
        assert architecture == "all"
        assert deadline.remaining() > 0
        return Path(f"{package}.deb")

    def unpack_deb(self, deb: Path, into: Path) -> None:
        self.unpacked += 1
        tree = into / "linux-source-6.1" / "kernel"
        tree.mkdir(parents=True)
        (tree / "kprobes.c").write_text("one\ntwo\nthree\n")
        (into / "usr/src").mkdir(parents=True)
        for number in range(self._tarballs):
            tarball = into / f"usr/src/linux-source-{deb.stem}{number}.tar.xz"
            subprocess.run(["tar", "-cJf", tarball, "-C", into, "linux-source-6.1"], check=True)


class UpstreamTarballs(TarballPackages):
    """A package source with the upstream tarball of every package and version."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory

    def fetch_upstream_tarball(self, package: str, *, deadline: Deadline) -> Path:
        assert deadline.remaining() > 0
        name, _, version = package.partition("=")
        tree = self._directory / f"{name}-{version}"
        (tree / "kernel").mkdir(parents=True)
        (tree / "kernel/kprobes.c").write_text("one\ntwo\nthree\n")
        tarball = self._directory / f"{name}_{version}.orig.tar.xz"
        subprocess.run(["tar", "-cJf", tarball, "-C", self._directory, tree.name], check=True)
        return tarball


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def step() -> ProgressStep:
    return ProgressStep(Bus(), "vm", "source")


def patch(directory: Path, text: str = PATCH, name: str = "some") -> Path:
    path = directory / f"{name}.patch"
    path.write_text(text)
    return path


def unpack(source: kernel_source_trees.Source, packages: TarballPackages, step: ProgressStep) -> Path:
    return kernel_source_trees.obtain_source_tree(source, cast(Packages, packages), step)


def test_the_tarball_is_unpacked_once_for_plain_and_patched(tmp_path: Path, step: ProgressStep) -> None:
    packages = TarballPackages()
    patched = unpack(kernel_source_trees.package_source("linux", "6.1-1", "ab12", [patch(tmp_path)]), packages, step)
    plain = unpack(kernel_source_trees.package_source("linux", "6.1-1", "ab12", []), packages, step)
    assert packages.unpacked == 1
    assert (plain / "kernel/kprobes.c").read_text() == "one\ntwo\nthree\n", "the patch wrote through a hard link"
    assert (patched / "kernel/kprobes.c").read_text() == "one\nTWO\nthree\n"
    assert {path.name for path in plain.iterdir()} == {"kernel"}


def test_an_upstream_tarball_is_unpacked_and_patched(tmp_path: Path, step: ProgressStep) -> None:
    packages = UpstreamTarballs(tmp_path)
    patched = unpack(
        kernel_source_trees.package_source("linux=6.18.15", "6.18.15", "ab12", [patch(tmp_path)]), packages, step
    )
    assert (patched / "kernel/kprobes.c").read_text() == "one\nTWO\nthree\n"
    assert [path.name for path in patched.iterdir()] == ["kernel"]
    plain = kernel_source_trees.package_source("linux=6.18.15", "6.18.15", "ab12", []).tree
    assert (plain.name, [path.name for path in plain.iterdir()]) == ("linux-6.18.15", ["kernel"])


def test_a_tree_is_known_by_version_and_by_its_patches(tmp_path: Path) -> None:
    one = kernel_source_trees.package_source("linux", "6.1-1", "ab12", [patch(tmp_path)])
    renamed = kernel_source_trees.package_source("linux", "6.1-1", "ab12", [patch(tmp_path, name="other")])
    changed = kernel_source_trees.package_source(
        "linux", "6.1-1", "ab12", [patch(tmp_path, PATCH.replace("TWO", "2"), name="third")]
    )
    assert one.tree == renamed.tree
    assert len({one.tree, changed.tree, kernel_source_trees.package_source("linux", "6.1-1", "ab12", []).tree}) == 3
    assert one.key_parts != changed.key_parts


def test_no_version_makes_a_path_that_kbuild_refuses() -> None:
    tree = kernel_source_trees.package_source("linux", "1:6.1~rc1 x", "ab12", []).tree
    assert not set(": ~") & set(tree.name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (PATCH.replace("-two", "-zwei"), "kernel/kprobes.c: Hunk #1 FAILED"),
        (PATCH.replace(" three", " drei"), "kernel/kprobes.c: Hunk #1 FAILED"),
        (PATCH.replace("kprobes.c", "gone.c"), "kernel/gone.c: can't find file to patch"),
        (PATCH.replace("-two\n+TWO", "-TWO\n+two"), "kernel/kprobes.c: "),
        ("no patch at all\n", "Only garbage"),
    ],
)
def test_a_patch_that_does_not_apply_is_named_and_leaves_nothing(
    tmp_path: Path, step: ProgressStep, text: str, complaint: str
) -> None:
    source = kernel_source_trees.package_source("linux", "6.1-1", "ab12", [patch(tmp_path, text, "bad")])
    with pytest.raises(RecipeError) as caught:
        unpack(source, TarballPackages(), step)
    assert str(caught.value).startswith("bad.patch: does not apply to linux-6.1-1")
    assert complaint in str(caught.value)
    assert not [path for path in source.tree.parent.iterdir() if path.is_dir() and path.name != "linux-6.1-1"]


def test_what_a_killed_run_left_is_not_taken_for_whole(step: ProgressStep) -> None:
    source = kernel_source_trees.package_source("linux", "6.1-1", "ab12", [])
    partial = source.tree.with_name(f".{source.tree.name}.partial")
    (partial / "kernel").mkdir(parents=True)
    (partial / "kernel" / "half").write_text("")
    assert not (unpack(source, TarballPackages(), step) / "kernel/half").exists()
    assert not partial.exists()


def test_a_package_that_is_no_kernel_source(step: ProgressStep) -> None:
    with pytest.raises(HostError, match="linux has 2 source tarballs, not one"):
        unpack(kernel_source_trees.package_source("linux", "6.1-1", "ab12", []), TarballPackages(tarballs=2), step)


def test_a_broken_tarball_is_reported_with_tars_error(step: ProgressStep) -> None:
    class Broken(TarballPackages):
        def unpack_deb(self, deb: Path, into: Path) -> None:
            (into / "usr/src").mkdir(parents=True)
            (into / f"usr/src/{deb.stem}.tar.xz").write_bytes(b"not xz")

    source = kernel_source_trees.package_source("linux", "6.1-1", "ab12", [])
    with pytest.raises(BuildError, match=r"unpacking linux\.tar\.xz failed: tar: "):
        unpack(source, Broken(), step)
    assert not source.tree.exists()


def own_tree(directory: Path, **kernel: object) -> Recipe:
    values = {"source": "tree", "tree": str(directory), **kernel}
    return Recipe.model_validate({"name": "vm", "arch": "x86_64", "describe": "a test", "kernel": values})


def test_a_tree_of_ones_own_is_built_where_it_stands_and_known_by_its_files(tmp_path: Path, step: ProgressStep) -> None:
    (tmp_path / "linux").mkdir()
    (tmp_path / "linux/Kbuild").write_text("")
    packages = cast(Packages, TarballPackages())
    before = kernel_source_trees.source_tree_of_recipe(own_tree(tmp_path / "linux"), packages)
    assert kernel_source_trees.obtain_source_tree(before, packages, step) == tmp_path / "linux"
    (tmp_path / "linux/Kbuild").write_text("obj-y += more.o\n")
    kernel_source_trees.listing_digest.cache_clear()
    assert (
        kernel_source_trees.source_tree_of_recipe(own_tree(tmp_path / "linux"), packages).key_parts != before.key_parts
    )


def test_a_tree_of_ones_own_that_is_none_or_is_to_be_patched(tmp_path: Path) -> None:
    packages = cast(Packages, TarballPackages())
    with pytest.raises(RecipeError, match=r"vm\.toml: kernel\.tree is .*, which is not a kernel source"):
        kernel_source_trees.source_tree_of_recipe(own_tree(tmp_path), packages)
    (tmp_path / "Kbuild").write_text("")
    with pytest.raises(RecipeError, match=r"vm\.toml: kernel\.patches is set for a tree of your own; apply them there"):
        kernel_source_trees.source_tree_of_recipe(own_tree(tmp_path, patches=["text-main"]), packages)

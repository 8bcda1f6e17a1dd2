"""The cross compiler of another Debian suite is fetched for a build, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.events import Bus
from harness.images import debian_suite_cross_tools, debian_suite_host_programs, prepare
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.debian_suite_host_programs import WantedSuitePrograms
from harness.images.store import Entry, Store
from harness.images.vm_recipe import load_all

LOONGARCH64, X86_64 = load_all()["loongarch64"], load_all()["x86_64-debian"]


class Suite:
    """A suite whose packages have not been fetched yet; `fetched` counts how often they were."""

    def __init__(self, store: Path) -> None:
        self.version, self.fetched = "1", 0
        self._store = store

    def key_parts(self, _wanted: WantedSuitePrograms, _context: BuildContext) -> list[str]:
        return [self.version]

    def obtain_launchers(self, _wanted: WantedSuitePrograms, _context: BuildContext, *, vm: str) -> Entry:
        assert vm == "loongarch64"
        self.fetched += 1
        return Entry(debian_suite_host_programs.KIND, self.version, self._store / self.version, {})


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    found = Suite(tmp_path / "store")
    monkeypatch.setattr(debian_suite_host_programs, "key_parts", found.key_parts)
    monkeypatch.setattr(debian_suite_host_programs, "obtain_launchers", found.obtain_launchers)
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path))
    return found


@pytest.fixture
def build_context(tmp_path: Path) -> BuildContext:
    bus = Bus()
    store = Store(tmp_path / "store", bus)
    store.root.mkdir()
    return BuildContext(store, Packages(tmp_path / "apt", bus, ["bookworm"]), bus)


def test_an_image_without_its_cross_compiler_is_not_built_and_nothing_is_fetched(
    suite: Suite, build_context: BuildContext
) -> None:
    assert not prepare.is_built(LOONGARCH64, build_context)
    assert suite.fetched == 0


def test_the_link_leads_to_the_directory_of_the_newest_compiler(
    suite: Suite, build_context: BuildContext, tmp_path: Path
) -> None:
    link = LOONGARCH64.architecture.cross_tools
    for suite.version in ("1", "1", "2"):
        launchers = debian_suite_cross_tools.obtain_cross_tools(LOONGARCH64, build_context)
        assert launchers == link.readlink() == tmp_path / "store" / suite.version / "bin"
    assert list(link.parent.iterdir()) == [link]


def test_a_compiler_of_the_hosts_suite_is_not_fetched(suite: Suite, build_context: BuildContext) -> None:
    assert debian_suite_cross_tools.obtain_cross_tools(X86_64, build_context) is None
    assert debian_suite_cross_tools.are_cross_tools_present(X86_64, build_context)
    assert suite.fetched == 0

"""A recipe gets the host's QEMU if it is new enough or forced, else that of a newer suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core import program_versions
from harness.core.architecture_table import ARCHITECTURES
from harness.core.errors import HostError, RecipeError
from harness.core.events import Bus
from harness.images import debian_suite_host_programs, qemu_program
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.debian_suite_host_programs import WantedSuitePrograms
from harness.images.store import Entry, Store
from harness.images.vm_recipe import Recipe, load

RECIPE = """
name = "vm"
arch = "parisc"
describe = "a test"
[kernel]
source = "debian-source"
package = "linux-source-6.1"
[machine]
qemu = "{need}"
"""


def recipe(tmp_path: Path, need: str, preferred: str = "") -> Recipe:
    path = tmp_path / "vm.toml"
    path.write_text(RECIPE.format(need=need) + (f'preferred_qemu = "{preferred}"\n' if preferred else ""))
    return load(path)


@pytest.fixture
def build_context(tmp_path: Path) -> BuildContext:
    bus = Bus()
    return BuildContext(Store(tmp_path / "store", bus), Packages(tmp_path / "apt", bus, ["bookworm"]), bus)


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[WantedSuitePrograms]:
    """Pretend a host with QEMU 7.2 and a suite with QEMU 11.1; return what is requested of the suite."""
    requested: list[WantedSuitePrograms] = []

    def obtain(wanted: WantedSuitePrograms, _context: BuildContext, *, vm: str) -> Entry:
        requested.append(wanted)
        return Entry(debian_suite_host_programs.KIND, "key", tmp_path / vm, {})

    def first_line(program: str) -> str:
        return f"QEMU emulator version {'11.1.3' if '/' in program else '7.2.22'} (Debian)"

    monkeypatch.setattr(debian_suite_host_programs, "obtain_launchers", obtain)
    monkeypatch.setattr(program_versions, "first_version_line", first_line)
    monkeypatch.setattr(debian_suite_host_programs, "key_parts", lambda *_: ["parts"])
    monkeypatch.delenv(qemu_program.HOST_QEMU_VARIABLE, raising=False)
    return requested


@pytest.mark.parametrize("need", ["", ">= 7", ">= 7.2", ">=7.2"])
def test_a_host_that_has_it_fetches_nothing(
    tmp_path: Path, build_context: BuildContext, fetched: list[WantedSuitePrograms], need: str
) -> None:
    found = qemu_program.with_required_qemu(recipe(tmp_path, need), build_context)
    assert not fetched
    assert found.architecture.qemu_machine == ARCHITECTURES["parisc"].qemu_machine
    assert qemu_program.required_qemu_program(recipe(tmp_path, need), build_context) == "qemu-system-hppa"


@pytest.mark.parametrize("need", [">= 7.3", ">= 11"])
def test_a_newer_one_comes_of_the_suite(
    tmp_path: Path, build_context: BuildContext, fetched: list[WantedSuitePrograms], need: str
) -> None:
    found = qemu_program.with_required_qemu(recipe(tmp_path, need), build_context)
    assert [wanted.packages for wanted in fetched] == [("qemu-system-misc",)]
    assert found.architecture.qemu_machine.qemu == str(tmp_path / "vm/bin/qemu-system-hppa")
    assert found.architecture.qemu_machine.machine == "B160L"
    assert qemu_program.required_qemu_program(recipe(tmp_path, need), build_context).endswith("/bin/qemu-system-hppa")
    assert not qemu_program.is_required_qemu_present(recipe(tmp_path, need), build_context)


def test_the_hosts_is_forced(
    tmp_path: Path, build_context: BuildContext, fetched: list[WantedSuitePrograms], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(qemu_program.HOST_QEMU_VARIABLE, "1")
    found = qemu_program.with_required_qemu(recipe(tmp_path, ">= 11"), build_context)
    assert not fetched
    assert found.architecture.qemu_machine == ARCHITECTURES["parisc"].qemu_machine


@pytest.mark.usefixtures("fetched")
def test_a_suite_that_is_too_old_is_one_line(tmp_path: Path, build_context: BuildContext) -> None:
    with pytest.raises(HostError, match="has no QEMU >= 12") as caught:
        qemu_program.with_required_qemu(recipe(tmp_path, ">= 12"), build_context)
    assert "\n" not in str(caught.value)


def test_a_preferred_one_comes_of_the_suite(
    tmp_path: Path, build_context: BuildContext, fetched: list[WantedSuitePrograms]
) -> None:
    preferring = recipe(tmp_path, "", ">= 11")
    found = qemu_program.with_required_qemu(preferring, build_context)
    assert len(fetched) == 1
    assert found.architecture.qemu_machine.machine == "B160L"
    assert qemu_program.store_entry(preferring, build_context) == {debian_suite_host_programs.KIND: ["parts"]}


def test_the_hosts_runs_instead_of_a_preferred_one_that_cannot_be_had(
    tmp_path: Path, build_context: BuildContext, fetched: list[WantedSuitePrograms], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_suite(*_: object, **__: object) -> list[str]:
        raise HostError("the mirror has no trixie-backports")

    details: list[str] = []
    build_context.bus.add_listener(lambda event: details.append(event.detail))
    monkeypatch.setattr(debian_suite_host_programs, "key_parts", no_suite)
    monkeypatch.setattr(debian_suite_host_programs, "obtain_launchers", no_suite)
    preferring = recipe(tmp_path, ">= 7", ">= 11")
    found = qemu_program.with_required_qemu(preferring, build_context)
    assert not fetched
    assert found.architecture.qemu_machine == ARCHITECTURES["parisc"].qemu_machine
    assert any("the host's, as with --host-qemu; the mirror has no trixie-backports" in line for line in details)
    assert qemu_program.required_qemu_program(preferring, build_context) == "qemu-system-hppa"
    assert qemu_program.is_required_qemu_present(preferring, build_context)
    assert qemu_program.store_entry(preferring, build_context) == {}
    # What the recipe needs, and does not only prefer, is demanded.
    for needing in (recipe(tmp_path, ">= 8"), recipe(tmp_path, ">= 8", ">= 11")):
        for choose in (qemu_program.with_required_qemu, qemu_program.store_entry):
            with pytest.raises(HostError, match="the mirror has no"):
                choose(needing, build_context)


@pytest.mark.usefixtures("fetched")
def test_a_preferred_one_newer_than_the_suites_is_the_hosts(tmp_path: Path, build_context: BuildContext) -> None:
    found = qemu_program.with_required_qemu(recipe(tmp_path, "", ">= 12"), build_context)
    assert found.architecture.qemu_machine == ARCHITECTURES["parisc"].qemu_machine


@pytest.mark.parametrize("need", ["11", "> 11", ">= eleven", ">= 11.1.3"])
def test_a_need_that_is_none_is_one_line(tmp_path: Path, need: str) -> None:
    for needs in ((need,), ("", need)):
        with pytest.raises(RecipeError, match="is not a version such as") as caught:
            recipe(tmp_path, *needs)
        assert "\n" not in str(caught.value)


def test_a_recipe_names_no_emulator(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(RECIPE.format(need="") + '[machine.emulator]\nprogram = "/bin/sh"\nversion = [1, 2]\n')
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert "\n" not in str(caught.value)

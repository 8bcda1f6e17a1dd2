"""The documented defect of a module's blacklist is recognized, but neither its absence nor another refusal."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.guest.result import Result
from harness.landing import probe_module
from harness.landing.checks import descriptors_on_blacklist
from harness.landing.landing_judgment import Missed
from harness.landing.mutants import HONEST, MUTANTS
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site

MODULE, BASE, TEXT, PLACE = "pinpoint_returns", 0x39000, 0x395E0, 0x3FE78
# Two descriptors before the text; what follows the first covers the place.
COVERS = [(0x39020, 0x72600), (0x39040, 0x39100)]
MISSES = [(0x39020, 0x39600), (0x39040, 0x39100)]
FUNCTIONS = [(0x395E0, 0x39618), (0x39618, 0x39648)]
SITE = Site("pinpoint_leaf", module="pinpoint_target")


class Scene:
    """A guest whose kernel has these ranges on its blacklist and answers a registration with this errno."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, ranges: list[tuple[int, int]], number: int, *, in_data: bool = False
    ) -> None:
        self.loaded = 0
        elf = SimpleNamespace(sections_by_name={".opd": None} if in_data else {}, symbols=[])
        elf.symbols = [SimpleNamespace(name=f"_kbl_addr_{name}") for name in ("one", "two")]
        monkeypatch.setattr(descriptors_on_blacklist, "read_blacklist_ranges", lambda _: [(0x40100000, 1), *ranges])
        monkeypatch.setattr(descriptors_on_blacklist.Elf, "read_cached", lambda _: elf)
        monkeypatch.setattr(probe_module, "load_probe_module", self._load)
        monkeypatch.setattr(probe_module, "unload_probe_module", self._unload)
        self._number = number

    def judge(self, cause: str | None = "the cause", site: Site = SITE, *, mutant: str = "") -> str:
        """Judge a probe of the module."""
        recipe = SimpleNamespace(defects=SimpleNamespace(descriptors_blacklisted=cause))
        image = SimpleNamespace(recipe=recipe, modules={MODULE: Path("none")})
        shown = f"{MODULE} 16384 0 - Live {BASE:#018x} (O)\n{TEXT:#018x}\n"
        guest = SimpleNamespace(
            image=image, name="a-vm", run_script=lambda _: Result("a-vm", ("sh",), 0, shown.encode(), b"", 0.0)
        )
        layout = SimpleNamespace(guest=guest, probe_address=lambda _: PLACE)
        kprobes = SimpleNamespace(layout=layout, mutant=MUTANTS[mutant] if mutant else HONEST)
        return descriptors_on_blacklist.cause_of_refusal_by_descriptors(cast(Kprobes, kprobes), site, MODULE)

    def _load(self, *_: object, **_named: object) -> Any:  # noqa: ANN401
        self.loaded += 1
        return SimpleNamespace(reports=(SimpleNamespace(errno=self._number),))

    def _unload(self, *_: object) -> None:
        self.loaded -= 1


def test_a_site_that_descriptors_cover_is_known_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, COVERS, errno.EINVAL)
    assert scene.judge() == "the cause"
    assert scene.loaded == 0


def test_a_site_elsewhere_is_judged_by_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Scene(monkeypatch, MISSES, 0).judge() == ""


@pytest.mark.parametrize(
    ("ranges", "number"),
    [(FUNCTIONS, 0), (FUNCTIONS, errno.EINVAL), (COVERS, 0), (COVERS, errno.ENOENT), (MISSES, errno.EINVAL)],
    ids=["fixed", "refused otherwise", "accepted", "absent", "refused elsewhere"],
)
def test_another_symptom_fails(monkeypatch: pytest.MonkeyPatch, ranges: list[tuple[int, int]], number: int) -> None:
    with pytest.raises(Missed, match=r"documented defect absent; fixed\?"):
        Scene(monkeypatch, ranges, number).judge()


def test_descriptors_in_data_are_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Scene(monkeypatch, [], 0, in_data=True).judge() == ""


@pytest.mark.parametrize(
    ("ranges", "number"), [(FUNCTIONS, 0), (COVERS, 0), ([], errno.EINVAL)], ids=["fixed", "added", "refused"]
)
def test_another_symptom_of_descriptors_in_data_fails(
    monkeypatch: pytest.MonkeyPatch, ranges: list[tuple[int, int]], number: int
) -> None:
    with pytest.raises(Missed, match=r"documented defect absent; fixed\?"):
        Scene(monkeypatch, ranges, number, in_data=True).judge()


def test_only_honest_cells_with_a_module_end_so(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, COVERS, errno.EINVAL)
    assert scene.judge(None) == ""
    assert scene.judge(site=Site("clock_t_to_jiffies")) == ""
    assert scene.judge(mutant="blind-to-returns") == ""

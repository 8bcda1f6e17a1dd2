"""A run of the probe module measures what its witness table needs while its guest answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.deadline import Deadline
from harness.core.errors import GuestLost
from harness.landing import probe_run
from harness.landing.layout import Layout
from harness.landing.own_bytes import OwnBytes
from harness.landing.probe_module import ProbeView
from harness.landing.probe_run import ProbeRun
from harness.landing.site import Site


class StoppedAfterSlide(SimpleNamespace):
    """A layout whose guest ends after its slide was measured."""

    slides = 0

    def measure_slide(self) -> None:
        self.slides += 1


def test_the_slide_is_measured_before_anything_is_registered() -> None:
    def read_many(_: object) -> list[bytes]:
        raise GuestLost("the guest stopped: SHUTDOWN host-qmp-quit")

    guest = SimpleNamespace(memory=SimpleNamespace(read_many=read_many))
    layout = StoppedAfterSlide(guest=guest)
    with pytest.raises(GuestLost), ProbeRun(cast(Layout, layout), ()):
        pass
    assert layout.slides == 1


CODE = bytes.fromhex("89f8 0d01000000 c3 90")
PROBED, WRITTEN = (CODE[:2] + patch for patch in (b"\xcc\1\2\3\4\xc3\x90", b"\xe9\1\2\3\4\xc3\x90"))


@pytest.mark.parametrize(("optimized", "read"), [(True, WRITTEN), (False, PROBED)])
def test_a_jump_that_is_half_written_is_read_again(
    monkeypatch: pytest.MonkeyPatch, *, optimized: bool, read: bytes
) -> None:
    """The kernel may stay between two of its steps for several readings, which then agree."""
    states = iter([CODE, CODE, PROBED, PROBED, PROBED, WRITTEN, WRITTEN])
    guest = SimpleNamespace(
        memory=SimpleNamespace(read_many=lambda _: [next(states)]),
        traits=SimpleNamespace(optimized_kprobes=optimized),
        architecture=ARCHITECTURES["x86_64"],
        scaled_deadline=Deadline.after,
    )
    layout = SimpleNamespace(
        guest=guest,
        measure_slide=lambda: None,
        probe_address=lambda site: 0x1000 + site.offset,
        elf_and_symbol=lambda _: (None, SimpleNamespace(size=len(CODE))),
    )
    monkeypatch.setattr(probe_run, "own_bytes_at", lambda *_: OwnBytes(0x1000, CODE, frozenset()))
    monkeypatch.setattr(probe_run.probe_module, "load_probe_module", lambda *_: ProbeView((), ()))
    life = ProbeRun(cast(Layout, layout), (Site("f", offset=2),))
    life.__enter__()
    assert life.evidence.memory_during == [read]

"""A run of the probe module measures what its witness table needs while its guest answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.errors import GuestLost
from harness.landing.layout import Layout
from harness.landing.probe_run import ProbeRun


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

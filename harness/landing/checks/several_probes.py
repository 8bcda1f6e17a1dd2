"""Several probes on one site: taken away one by one, registered once more."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from harness.landing import probe_module
from harness.landing.landing import Missed
from harness.landing.probe_run import ProbeRun

_PARAMETERS = f"/sys/module/{probe_module.MODULE}/parameters"


def remove(probes: ProbeRun, index: int) -> None:
    """Unregister one of the probes, by its place among the sites; the others stay."""
    probes.guest.script(f"echo {index} >{_PARAMETERS}/remove").check()


def expect_no_second_time(probes: ProbeRun, index: int) -> None:
    """Raise Missed unless the kernel answers EINVAL when a probe is registered that already is."""
    answer = probes.guest.script(f"echo {index} >{_PARAMETERS}/again")
    if answer.rc == 0 or os.strerror(errno.EINVAL) not in answer.stderr:
        raise Missed(f"{probes.sites[index]} a second time: {answer.stderr.strip() or 'registered'}, not EINVAL")


def expect_hits(probes: ProbeRun, hits: Sequence[int]) -> None:
    """Raise Missed unless the probes were hit so often, in the order of the sites."""
    seen = [landing.hits for landing in probes.landings]
    if seen != list(hits):
        raise Missed(f"{probes.sites[0]}: hit {seen} times, not {list(hits)}")

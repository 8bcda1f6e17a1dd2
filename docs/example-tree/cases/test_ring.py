"""Probes on the functions of the module `ring` (probes/ring) land where its symbols are."""

from collections.abc import Callable

import pytest

from harness.guest.guest import Guest
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target

PUT = "/sys/module/ring/parameters/put"


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_put(guest: Guest, load_target: Callable[[str], Target], kprobes_in: Callable[..., Kprobes]) -> None:
    """A kprobe on ring_put() lands on its entry, and is hit once for each number that is put."""
    ring = load_target("ring")
    with kprobes_in(guest, ring).on(ring.function_site("ring_put")) as probes:
        guest.run_script(f"for number in 1 2 3; do echo $number >{PUT}; done").check()
        assert guest.read_text(PUT).strip() == "6"
    probes.prove(hits=3)

"""A kprobe on symbol + offset is at the symbol's address + offset and is hit as often as its instruction runs.

The kernel itself resolves symbol_name + offset (kernel/kprobes.c, _kprobe_addr()); the case computes no address for it.
Offsets are instruction boundaries of the function's first straight stretch, which runs exactly once in each call.
"""

from collections.abc import Callable, Mapping

import pytest

from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target

# More than four, so that a probe which does not count every fourth hit has the wrong count.
TIMES = 5
# Entry and three more boundaries: enough to distinguish a wrong offset from a wrong symbol.
BOUNDARIES = 4
# A call of pinpoint_recursive() runs it so many times (PINPOINT_DEPTH + 1, probes/target/shapes.c).
LEVELS = 4


def call_clock_t_to_jiffies(target: Target) -> None:
    """Make the target call clock_t_to_jiffies(), an exported function that an idle guest never calls."""
    target.call_for_checksum("clock_t_to_jiffies", TIMES)


def call_hex_to_bin(target: Target) -> None:
    """Make the target call hex_to_bin(), which is exported, too, and is one straight line."""
    target.call_for_checksum("hex_to_bin", TIMES)


def read_status(target: Target) -> None:
    """Read /proc/PID/status, which calls task_mem(), of another file, once (proc_pid_status(), fs/proc/array.c)."""
    for _ in range(TIMES):
        target.guest.run("cat", "/proc/self/status").check()


def read_version(target: Target) -> None:
    """Read /proc/version, which calls version_proc_show() once (fs/proc/version.c)."""
    for _ in range(TIMES):
        target.guest.run("cat", "/proc/version").check()


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("next-symbol", deep=("one-instruction-off",))
@pytest.mark.parametrize(
    "candidates",
    [
        pytest.param(
            {"clock_t_to_jiffies": call_clock_t_to_jiffies, "hex_to_bin": call_hex_to_bin},
            id="exported",
        ),
        pytest.param({"task_mem": read_status}, id="unexported"),
        pytest.param({"version_proc_show": read_version}, id="static"),
    ],
)
def test_kernel_function(
    layout: Layout,
    target: Target,
    kprobes: Kprobes,
    candidates: Mapping[str, Callable[[Target], None]],
) -> None:
    """Probes on a kernel function, exported, unexported or static, land on its entry and inner boundaries.

    The first candidate is probed that has enough boundaries in this kernel. On s390x clock_t_to_jiffies() has three.
    """
    enough = [symbol for symbol in candidates if len(layout.once_per_call_sites(Site(symbol))) >= BOUNDARIES]
    symbol = enough[0] if enough else next(iter(candidates))
    sites = layout.once_per_call_sites(Site(symbol), BOUNDARIES)
    with kprobes.on(*sites) as probes:
        candidates[symbol](target)
    probes.prove(hits=TIMES)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
@pytest.mark.parametrize("plain", [pytest.param(True, id="SYM"), pytest.param(False, id="MOD:SYM")])
@pytest.mark.parametrize("shape", ["leaf", pytest.param("calls", marks=pytest.mark.deep), "static"])
def test_module_function(layout: Layout, target: Target, kprobes: Kprobes, shape: str, plain: bool) -> None:
    """Probes on a module's function, by SYM and by MOD:SYM, land on its entry and inner boundaries."""
    sites = layout.once_per_call_sites(target.shape_site(shape, plain=plain), BOUNDARIES)
    with kprobes.on(*sites) as probes:
        target.call_for_checksum(shape, TIMES)
    probes.prove(hits=TIMES)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants(
    "lies", "misreports", "stale-list", "also-elsewhere", "unlisted", "wrong-ip", "deaf", "stale-snapshot"
)
def test_each_witness_decides(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """All witnesses agree, and each mutant that only one of them can find is found by that one."""
    sites = layout.once_per_call_sites(target.shape_site("leaf"), BOUNDARIES)
    with kprobes.on(*sites) as probes:
        target.call_for_checksum("leaf", TIMES)
    probes.prove(hits=TIMES)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("next-symbol", deep=("one-instruction-off", "stale-snapshot"))
def test_not_called_not_hit(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """Probes on a function that is not called are never hit, though the next function is called."""
    sites = layout.once_per_call_sites(target.shape_site("leaf"), BOUNDARIES)
    with kprobes.on(*sites) as probes:
        target.call_for_checksum("loop", TIMES)
    probes.prove(hits=0)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("deaf", deep=("one-instruction-off", "stale-snapshot"))
def test_recursion_hits_at_every_level(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """A probe on a recursive function is hit once at each level of each call."""
    entry = layout.entry_site(target.shape_site("recursive"))
    with kprobes.on(entry) as once:
        target.call_for_checksum("recursive", 1)
    once.prove(hits=LEVELS)
    with kprobes.on(entry) as thrice:
        target.call_for_checksum("recursive", TIMES)
    thrice.prove(hits=TIMES * LEVELS)

"""Probes that other modules register are found and judged without the module's help, however they are registered.

Modules, perf, BPF and tracefs all register kprobes by register_kprobe() (kernel/kprobes.c, 6.1). The judge reads the
calls of that function, the kernel's lists, every changed byte of text, and the ELF files; it does not use the module.

Only kernels with ftrace-based kprobes for now: on arm64 the judge reports changes of a module's text that it cannot
explain, and on parisc it leaves tracefs mounted (docs/verify.md).
"""

from collections.abc import Callable

import pytest

from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import Target
from harness.landing.verify.judged import Finding
from harness.matrix.verify.fixture import ForeignProbes

MODULE = "pinpoint_external"
# Reading /proc/version calls it, and an idle guest does not.
SITE = Site("version_proc_show")
LANDED, DISABLED, GONE = Finding.LANDED, Finding.DISABLED, Finding.GONE


@pytest.mark.requires("kprobes", "ftrace_kprobes")
@pytest.mark.mutants("list-left-out", "registers-elsewhere")
def test_plain(foreign: ForeignProbes) -> None:
    """A kprobe that a module's initializer registers by symbol and offset lands there."""
    foreign.module(MODULE, SITE).prove(("version_proc_show+0x0", LANDED))


@pytest.mark.requires("kprobes", "ftrace_kprobes")
@pytest.mark.mutants("list-left-out", "registers-elsewhere")
def test_in_another_module(foreign: ForeignProbes, target: Target) -> None:
    """A kprobe on a function of another module is compared with that module's file."""
    site = target.site("leaf")
    foreign.module(MODULE, site).prove((f"{site.module}:{site.symbol}+0x0", LANDED))


@pytest.mark.deep
@pytest.mark.requires("kprobes", "ftrace_kprobes")
@pytest.mark.mutants("list-left-out", "registers-elsewhere")
@pytest.mark.parametrize(
    ("kind", "finding"),
    [("fallback", LANDED), ("disabled", DISABLED), ("later", LANDED)],
)
def test_kind(foreign: ForeignProbes, kind: str, finding: Finding) -> None:
    """Each of these kprobes gets the right finding: by a second name, not armed, registered later by a workqueue.

    The workqueue registers its kprobe one second later.
    """
    outcome = foreign.module(MODULE, SITE, kind)
    outcome.prove(("version_proc_show+0x0", finding))
    refused = [call.refusal for call in outcome.judgement.refused]
    assert refused == (["ENOENT"] if kind == "fallback" else [])


@pytest.mark.deep
@pytest.mark.requires("kprobes", "ftrace_kprobes")
@pytest.mark.mutants("list-left-out", "registers-elsewhere")
def test_by_address(foreign: ForeignProbes, layout: Layout, figure: Callable[..., object]) -> None:
    """A kprobe that was removed before the first look is `gone`; the one registered by address has landed."""
    outcome = foreign.module(MODULE, SITE, "address")
    # The kernel lists the address after a landing pad (arch_adjust_kprobe_addr(), since 5.19).
    listed = SITE.at(layout.address(SITE) - layout.start(SITE))
    outcome.prove(("version_proc_show+0x0", GONE), (str(listed), LANDED))
    figure("foreign.probes", len(outcome.probes), "probes")

"""Probes that other modules register are found and judged without the module's help, however they are registered.

register_kprobe() is the one way to a kprobe for modules, perf, BPF and tracefs (kernel/kprobes.c, 6.1). The judge reads
its calls, the kernel's lists, every byte of text that changed, and the ELF files; nothing here asks the module.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import PurePosixPath

import pytest

from harness.guest.guest import Guest
from harness.images import kernel_samples, systemtap
from harness.images.user_targets import FIRST_LIBRARY
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import Target
from harness.landing.verify.judged import ProbeVerdict, judged_table
from harness.matrix.verify import systemtap_run
from harness.matrix.verify.foreign_probes_fixture import ForeignProbes
from harness.matrix.verify.subjects import SubjectRefused
from harness.userspace.uprobes_fixture import Uprobes

MODULE = "pinpoint_external"
# Reading /proc/version calls it, and an idle guest does not.
SITE = Site("version_proc_show")
# A function that nothing idle calls either, for mutants that must not land in the first one.
OTHER = Site("uptime_proc_show")
Tools = Callable[..., AbstractContextManager[ForeignProbes]]
LANDED, DISABLED, GONE = ProbeVerdict.LANDED, ProbeVerdict.DISABLED, ProbeVerdict.GONE


def _listed(layout: Layout, site: Site) -> str:
    """Where the kernel lists a probe on a site: after the landing pad (arch_adjust_kprobe_addr(), since 5.19)."""
    return str(site.at_offset(layout.probe_address(site) - layout.symbol_start(site)))


def _entry(foreign: ForeignProbes) -> Site:
    return Layout(foreign.guest).entry_site(SITE)


def _are_registrations_watched(guest: Guest) -> bool:
    """True if the kernel accepts the kretprobe on register_kprobe() that records its calls (probes/watch/main.c)."""
    return guest.traits.traced_entry_kprobes


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-elsewhere", deep=("list-left-out",))
def test_plain(foreign_probes: ForeignProbes) -> None:
    """A kprobe that a module's initializer registers by symbol and offset lands there."""
    site = _entry(foreign_probes)
    foreign_probes.judge_module(MODULE, site).prove_exactly_these_probes((str(site), LANDED))


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-elsewhere", deep=("list-left-out",))
def test_in_another_module(foreign_probes: ForeignProbes, layout: Layout, target: Target) -> None:
    """A kprobe on a function of another module is compared with that module's file."""
    site = layout.entry_site(target.shape_site("leaf"))
    asked = f"{site.module}:{site.symbol}+{site.offset:#x}"
    asked = asked if _are_registrations_watched(foreign_probes.guest) else str(site)
    foreign_probes.judge_module(MODULE, site).prove_exactly_these_probes((asked, LANDED))


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-elsewhere")
@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("fallback", LANDED), ("disabled", DISABLED), ("later", LANDED)],
    # The names that these cells had in earlier runs: `history` and `compare` look cells up by name.
    ids=["fallback-Finding.LANDED", "disabled-Finding.DISABLED", "later-Finding.LANDED"],
)
def test_kind(foreign_probes: ForeignProbes, kind: str, verdict: ProbeVerdict) -> None:
    """Each of these kprobes gets the right verdict: by a second name, not armed, registered later by a workqueue.

    The workqueue registers its kprobe one second later.
    """
    site = _entry(foreign_probes)
    outcome = foreign_probes.judge_module(MODULE, site, kind)
    outcome.prove_exactly_these_probes((str(site), verdict))
    refused = [call.refusal for call in outcome.judgement.refused_registrations]
    watched = _are_registrations_watched(foreign_probes.guest)
    assert refused == (["ENOENT"] if kind == "fallback" and watched else [])


@pytest.mark.deep
@pytest.mark.requires("kprobes", "traced_entry_kprobes")
@pytest.mark.mutants("owner-left-out")
@pytest.mark.parametrize(
    "kind",
    [
        "return",
        pytest.param("bare", marks=pytest.mark.deep),
        pytest.param("plain", marks=pytest.mark.deep),
    ],
)
def test_owner(foreign_probes: ForeignProbes, kind: str) -> None:
    """The owner of a probe is the module that has its handler, and without a handler the one that has its kprobe.

    The pre-handler of a kretprobe's kprobe is the kernel's own (register_kretprobe(), kernel/kprobes.c, 6.1).
    """
    site = _entry(foreign_probes)
    outcome = foreign_probes.judge_module(MODULE, site, kind)
    outcome.prove_exactly_these_probes((str(site), LANDED))
    outcome.prove_owned_by(MODULE)


@pytest.mark.deep
@pytest.mark.requires("kprobes", "traced_entry_kprobes")
@pytest.mark.mutants("registers-elsewhere")
def test_by_address(foreign_probes: ForeignProbes, layout: Layout, figure: Callable[..., object]) -> None:
    """A kprobe that was removed before the first look is `gone`; the one registered by address has landed."""
    site = _entry(foreign_probes)
    outcome = foreign_probes.judge_module(MODULE, site, "address")
    outcome.prove_exactly_these_probes((str(site), GONE), (_listed(layout, site), LANDED))
    figure("foreign.probes", len(outcome.probes), "probes")


def _tracefs(place: str, prepare: str = "", kind: str = "kprobe") -> str:
    """A shell script that defines and enables a probe by tracefs, and removes it when it is interrupted."""
    tracing, event = "/sys/kernel/tracing", f"/sys/kernel/tracing/events/{kind}s/pinpoint_mine/enable"
    return f"""
        stop() {{{{ echo 0 >{event}; echo -:pinpoint_mine >>{tracing}/{kind}_events; exit; }}}}
        trap stop INT TERM
        {prepare}
        echo "p:pinpoint_mine {place}" >>{tracing}/{kind}_events && echo 1 >{event} || exit
        while :; do sleep 1; done
    """


def _demand_kprobe_events(guest: Guest) -> None:
    if not guest.run("test", "-e", "/sys/kernel/tracing/kprobe_events").ok:
        pytest.skip(f"{guest.name} has no kprobes by tracefs")


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("registers-elsewhere", deep=("list-left-out",))
def test_tracefs_script(foreign_probes: ForeignProbes) -> None:
    """A kprobe that a shell script writes to kprobe_events, by symbol + offset, lands there."""
    _demand_kprobe_events(foreign_probes.guest)
    site = Layout(foreign_probes.guest).once_per_call_sites(SITE, 2)[1]
    foreign_probes.judge_command(_tracefs("{symbol}+{offset}"), site).prove_exactly_these_probes((str(site), LANDED))


@pytest.mark.deep
@pytest.mark.requires("uprobes", "traced_entry_kprobes")
@pytest.mark.mutants("list-left-out", "registers-elsewhere")
def test_uprobe_of_a_script(foreign_probes: ForeignProbes, uprobes: Uprobes) -> None:
    """A uprobe that a shell script writes to uprobe_events lands in the process that maps the file.

    The kernel exports no list of uprobes: register_uprobe() is recorded, and the process has the breakpoint.
    """
    file = uprobes.target_file(FIRST_LIBRARY)
    site = file.site("pinpoint_one_leaf")
    place = file.offset_of_site(site)
    with uprobes.runner_of_build():
        outcome = foreign_probes.judge_command(
            _tracefs(f"{file.guest_path}:$(({place}+{{offset}}))", kind="uprobe"),
            site,
            file.next_instruction_site(site),
        )
    outcome.prove_exactly_these_probes((f"{PurePosixPath(file.guest_path).name}:{place:#x}", LANDED))


@pytest.mark.deep
@pytest.mark.requires("kprobes", "traced_entry_kprobes")
@pytest.mark.mutants("list-left-out", "table-lies")
def test_script_by_a_symbol_table(foreign_probes: ForeignProbes) -> None:
    """A script that looks the address up in a table of symbols lands, and is missed with a table that is wrong.

    Where the kernel moves only what is asked for by name, the probe stays at the symbol (PowerPC's global entry).
    """
    _demand_kprobe_events(foreign_probes.guest)
    look_up = "place=$(grep ' {symbol}$' {table}) && place=0x${{place%% *}} || exit"
    outcome = foreign_probes.judge_command(_tracefs("$place", look_up), SITE)
    by_name_only = foreign_probes.guest.architecture.kprobe_traits.probes_local_entry
    outcome.prove_at((str(SITE) if by_name_only else _listed(Layout(foreign_probes.guest), SITE), LANDED))


@pytest.mark.deep
@pytest.mark.requires("kprobes", "traced_entry_kprobes")
@pytest.mark.mutants("registers-elsewhere")
@pytest.mark.parametrize(
    ("sample", "parameter"),
    [
        pytest.param("kprobe_example", "symbol", id="kprobe_example"),
        pytest.param("kretprobe_example", "func", id="kretprobe_example", marks=pytest.mark.full),
    ],
)
def test_kernel_sample(foreign_probes: ForeignProbes, sample: str, parameter: str) -> None:
    """The kernel's own samples/kprobes, built from the source of the kernel that runs, land at their parameter."""
    outcome = foreign_probes.judge_kernel_sample(sample, parameter, SITE, OTHER)
    outcome.prove_at((_listed(Layout(foreign_probes.guest), SITE), LANDED))


# Parts of the kernel that not every kernel has, and the function that shows each. An architecture without trampolines
# has only the weak function, which returns -ENOTSUPP (kernel/bpf/trampoline.c). 6.1 has them on x86 and arm64, 7.3 also
# on s390, RISC-V, PowerPC and LoongArch.
_FUNCTIONS_OF_FEATURES = {"BPF trampolines": "arch_prepare_bpf_trampoline", "fprobes": "register_fprobe_ips"}


def _demand(guest: Guest, feature: str) -> None:
    if not guest.run("grep", "-q", f" T {_FUNCTIONS_OF_FEATURES[feature]}$", "/proc/kallsyms").ok:
        pytest.skip(f"{guest.name} has no {feature}")


@pytest.mark.full
@pytest.mark.requires("kprobes", "ftrace_kprobes")
@pytest.mark.mutants("owner-left-out", "registers-elsewhere")
def test_fprobe_owner(foreign_probes: ForeignProbes) -> None:
    """The kernel's own sample of an fprobe lands at its parameter, and its owner is the module that has its handler.

    `enabled_functions` shows the kernel's handler alone, which all fprobes share (kernel/trace/fprobe.c, 5.18 to 7.3).
    """
    _demand(foreign_probes.guest, "fprobes")
    outcome = foreign_probes.judge_kernel_sample("fprobe_example", "symbol", SITE, OTHER, kernel_samples.FPROBES)
    outcome.prove_at((_listed(Layout(foreign_probes.guest), SITE), LANDED))
    outcome.prove_owned_by("fprobe_example")


# What a tool prints if it cannot make a probe on this kernel: bpftrace 0.11 (Debian 11) places no kprobe at an offset
# without vmlinux, and has no kfunc without the kernel's BTF.
_TOOL_CANNOT = ("Use BPFTRACE_VMLINUX env variable", "kfunc/kretfunc not available for your kernel version")

# perf record leaves the kprobe that perf probe added, so the script removes it when it is interrupted. Debian 11 has
# perf as perf_5.10.
_PERF = """
    perf() {{ "$(ls /usr/bin/perf /usr/bin/perf_* 2>/dev/null | head -n 1)" "$@"; }}
    trap 'perf probe -q -d probe:mine' INT TERM
    perf probe -q -a mine={symbol}+{offset} && perf record -q -e probe:mine -a sleep 999
"""


def _judge_tool(foreign: ForeignProbes, command: str, *, second: bool) -> None:
    """The command's probe must land on the first or the second instruction that a probe can stand on."""
    layout = Layout(foreign.guest)
    site, other = (layout.once_per_call_sites(each, 2)[1] if second else each for each in (SITE, OTHER))
    try:
        outcome = foreign.judge_command(command, site, other, tools=True)
    except SubjectRefused as refused:
        if why := next((each for each in _TOOL_CANNOT if each in str(refused)), ""):
            pytest.skip(f"{foreign.guest.name}: the tool cannot make such a probe: {why}")
        raise
    outcome.prove_at((_listed(layout, site), LANDED))


@pytest.mark.deep
@pytest.mark.requires("kprobes", "uprobes")
@pytest.mark.mutants("registers-elsewhere")
@pytest.mark.parametrize(
    ("package", "command", "second"),
    [
        pytest.param(
            *("bpftrace", "bpftrace -e 'kprobe:{symbol} {{ @ = count(); }}'", False),
            id="bpftrace-entry",
            marks=(pytest.mark.full, pytest.mark.requires("traced_entry_kprobes")),
        ),
        pytest.param(
            "bpftrace", "bpftrace -e 'kprobe:{symbol}+{offset} {{ @ = count(); }}'", True, id="bpftrace-offset"
        ),
        pytest.param("linux-perf", _PERF, True, id="perf", marks=pytest.mark.full),
    ],
)
def test_tool(foreign_probes_with_packages: Tools, package: str, command: str, second: bool) -> None:
    """A kprobe of bpftrace or perf lands where its command line has it; both are Debian's, in a guest of their own.

    The mutant `list-left-out` waits for a probe until the limit of a tool, so it runs with quick commands alone.
    """
    with foreign_probes_with_packages(package) as foreign:
        _judge_tool(foreign, command, second=second)


@pytest.mark.deep
@pytest.mark.requires("kprobes", "ftrace_kprobes", "uprobes")
@pytest.mark.mutants("list-left-out", "registers-elsewhere")
def test_fentry(foreign_probes_with_packages: Tools) -> None:
    """A BPF fentry probe, which is no kprobe and which no list of kprobes has, is found at its ftrace site."""
    with foreign_probes_with_packages("bpftrace") as foreign:
        _demand(foreign.guest, "BPF trampolines")
        _judge_tool(foreign, "bpftrace -e 'kfunc:{symbol} {{ @ = count(); }}'", second=False)


@pytest.mark.full
@pytest.mark.requires("kprobes", "ftrace_kprobes", "uprobes")
@pytest.mark.mutants("list-left-out", "registers-elsewhere")
def test_kprobe_multi(foreign_probes_with_packages: Tools) -> None:
    """bpftrace's probe with a wildcard, an fprobe that no list of kprobes has, is found at its ftrace site.

    bpftrace uses kprobe.multi for a wildcard where the kernel has it (bpf_kprobe_multi_link_attach(),
    kernel/trace/bpf_trace.c, 5.18, with CONFIG_FPROBE).
    """
    with foreign_probes_with_packages("bpftrace") as foreign:
        _demand(foreign.guest, "fprobes")
        outcome = foreign.judge_command("bpftrace -e 'kprobe:{symbol}* {{ @ = count(); }}'", SITE, OTHER, tools=True)
        outcome.prove_at((_listed(Layout(foreign.guest), SITE), LANDED))
        if (kinds := [each.kind for each in outcome.probes]) != ["fprobe"]:
            raise Missed(f"the probe is {kinds[0]}, not an fprobe\n\n{judged_table(outcome.probes)}")


@pytest.mark.full
@pytest.mark.requires("kprobes", "uprobes", "traced_entry_kprobes")
@pytest.mark.mutants("registers-elsewhere")
def test_systemtap(foreign_probes_with_packages: Tools) -> None:
    """A systemtap script's probe on a function lands at its entry."""
    with foreign_probes_with_packages(*systemtap_run.PACKAGES, suite=systemtap.SUITE) as foreign:
        if reason := systemtap.reason_not_to_compile(foreign.guest.image):
            pytest.skip(reason)
        outcome = foreign.judge_systemtap('probe kprobe.function("{symbol}") {{ next }}', SITE, OTHER)
        outcome.prove_at((_listed(Layout(foreign.guest), SITE), LANDED))


@pytest.mark.full
@pytest.mark.requires("kprobes", "uprobes", "traced_entry_kprobes")
@pytest.mark.mutants("registers-elsewhere")
def test_systemtap_by_debug_information(foreign_probes_with_packages: Tools, guest: Guest) -> None:
    """A systemtap script's probe on a function that stap finds by DWARF lands at its entry.

    stap cannot compile its body without the function's DWARF, from which it has the place of the parameter.
    """
    if guest.image.debug_symbols is None:
        pytest.skip("needs --debug-symbols, and a VM with Debian's kernel")
    script = 'global n probe kernel.function("{symbol}") {{ n += $m }} probe end {{ println(n) }}'
    with foreign_probes_with_packages(*systemtap_run.PACKAGES, suite=systemtap.SUITE) as foreign:
        outcome = foreign.judge_systemtap(script, SITE, OTHER)
        outcome.prove_at((_listed(Layout(foreign.guest), SITE), LANDED))

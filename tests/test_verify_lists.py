"""`./pinpoint verify` reads registrations, traced functions and settings from a guest correctly."""

from __future__ import annotations

import errno
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, cast

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf, Symbol
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import Result
from harness.landing.layout import Layout
from harness.landing.probe_module import ListedProbe
from harness.landing.site import Site
from harness.landing.verify import changed_settings, listed_probes_and_modules, registrations, traced_functions
from harness.landing.verify.fentry_and_fprobe_judge import FtraceJudge, judge_traced_functions
from harness.landing.verify.fprobe_owners import FprobeOwners
from harness.landing.verify.guest_text_changes import GuestText
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.landing.verify.kprobe_judge import (
    FoundKprobe,
    KprobeJudge,
    armed_addresses,
    match_registrations,
    site_of_listed_probe,
)
from harness.landing.verify.loaded_modules import LoadedModule, LoadedModuleFinder, module_with_code, module_with_data
from harness.landing.verify.registrations import Registration
from harness.landing.verify.site_addresses_from_elf_files import LoadedFiles, SitePlace, SitePlaces
from harness.landing.verify.traced_functions import TracedFunction
from harness.landing.verify.watch_and_judge_registrations import name_of_standing_probe, probe_stands_at

RECORDS = r"""time=72950503896 errno=0 address=0xffffffff81411c80 offset=0 disabled=0 handler=0xffffffffc024a000 kprobe=0xffffffffc024c0a0 pid=179 symbol=uptime_proc_show command=insmod
time=72950503999 errno=2 address=0x0 offset=4 disabled=0 handler=0xffffffffc024a000 kprobe=0xffffffffc024c0a0 pid=179 symbol=no\040such command=kworker/0:1\040x
time=72950504000 errno=0 address=0xffffffff81411c84 offset=0 disabled=1 handler=0x0 kprobe=0xffffc90000123000 pid=1 symbol=- command=sh
lost=3 now=71033445908
"""  # noqa: E501

UPROBES = r"""time=5 errno=0 device=254:0 inode=77 offset=0x4dd0 pid=9 file=busy\040box command=perf
time=6 errno=22 device=0:2 inode=78 offset=0x1 pid=9 file=- command=perf
lost=2 functions=1
"""

TRACED = """\
uptime_proc_show (1) R I  \ttramp: 0xffffffffc0254000 (kprobe_ftrace_handler+0x0/0x1) ->kprobe_ftrace_handler+0x0/0x1
start_xmit [virtio_net] (1) R    \ttramp: 0xffffffffc0254000 (fprobe_handler+0x0/0x1b0) ->fprobe_handler+0x0/0x1b0
vfs_read (1)     D  \t
\tdirect-->bpf_trampoline_6442536467_1+0x0/0x6c
vfs_write (2)       ->arch_ftrace_ops_list_func+0x0/0x1e0
nonsense that no kernel prints
"""


MODULE_WITH_DATA = """\
        .text
f:      ret
        .section .init.data, "aw"
        .quad 0
        .data
        .zero 64
"""


def call(address: int, *, disabled: bool = False, symbol: str = "f", error: int = 0) -> Registration:
    return Registration(1, error, address, symbol, 0, 0, "insmod", disabled)


def test_registrations_are_read_with_what_was_refused() -> None:
    records = registrations.parse_registrations(RECORDS)
    assert (len(records.registrations), records.lost_count, records.read_at_nanoseconds) == (3, 3, 71033445908)
    landed, refused, by_address = records.registrations
    assert (landed.asked_symbol_offset, landed.refusal, landed.address) == (
        "uptime_proc_show+0x0",
        "",
        0xFFFFFFFF81411C80,
    )
    assert (refused.symbol, refused.command, refused.refusal) == ("no such", "kworker/0:1 x", "ENOENT")
    assert (by_address.asked_symbol_offset, by_address.disabled) == ("", True)
    assert (landed.handler, landed.kprobe) == (0xFFFFFFFFC024A000, 0xFFFFFFFFC024C0A0)
    assert (by_address.handler, by_address.kprobe) == (0, 0xFFFFC90000123000)


def test_registrations_of_uprobes_are_read_with_their_files() -> None:
    records = registrations.parse_registrations(RECORDS + UPROBES)
    assert (len(records.registrations), records.lost_count) == (3, 3)
    assert (records.lost_uprobe_count, records.watched_uprobe_functions) == (2, 1)
    named, nameless = records.uprobe_registrations
    assert (named.asked, named.errno, named.command) == ("busy box:0x4dd0", 0, "perf")
    assert (nameless.asked, nameless.errno) == ("inode 78 of 0:2:0x1", 22)


def test_the_errors_of_registrations_have_the_numbers_of_the_host() -> None:
    text = (RECORDS + UPROBES).replace("errno=2 ", "errno=45 ").replace("errno=22 ", "errno=122 ")
    records = registrations.parse_registrations(text, ARCHITECTURES["sparc64"].host_errno)
    assert [each.errno for each in records.registrations] == [0, errno.EOPNOTSUPP, 0]
    assert [each.errno for each in records.uprobe_registrations] == [0, errno.EILSEQ]


@pytest.mark.parametrize("text", ["inode=7 errno=0\n", "errno=0\n", "time=x errno=0\n", "what\n"])
def test_what_is_no_registration_is_one_line(text: str) -> None:
    with pytest.raises(GuestError, match="not a registration"):
        registrations.parse_registrations(text)


def test_traced_functions_are_known_by_what_traces_them() -> None:
    kprobe, fprobe, fentry, shared = traced_functions.parse_enabled_functions(TRACED)
    assert [each.kind for each in (kprobe, fprobe, fentry, shared)] == ["kprobe", "fprobe", "fentry", "ftrace"]
    assert kprobe.trampolines == (0xFFFFFFFFC0254000,)
    assert (fprobe.name, fprobe.module) == ("start_xmit", "virtio_net")
    assert fentry.direct_trampoline == "bpf_trampoline_6442536467_1"
    assert shared.tracer_count == 2


class _SitesAndVerdicts:
    """A judge of traced functions; each has its one site at 0x100."""

    def ftrace_sites_of(self, _: TracedFunction) -> list[int]:
        return [0x100]

    def judge_traced_function(self, traced: TracedFunction) -> JudgedProbe:
        return JudgedProbe(str(traced), traced.kind, ProbeVerdict.LANDED, 0x100)


@pytest.mark.parametrize(
    ("line", "flags", "shown"),
    [
        ("f (1) R I  \t\n", ("[FTRACE]",), 0),
        ("f (1) R I  \t\n", ("[OPTIMIZED]",), 1),
        ("f (2) R I  \t->arch_ftrace_ops_list_func+0x0/0x1e0\n", ("[FTRACE]",), 1),
        (TRACED.splitlines()[0], (), 0),
        (TRACED.splitlines()[1], ("[FTRACE]",), 1),
    ],
)
def test_a_kprobe_on_an_ftrace_site_is_shown_once(line: str, flags: tuple[str, ...], shown: int) -> None:
    """i386 has no trampolines of their own for tracers, and its list names none (seen on 6.1.0-50-686-pae)."""
    traced = traced_functions.parse_enabled_functions(line)
    kprobe = ListedProbe(0x100, "f+0x0", flags)
    judge = cast(FtraceJudge, _SitesAndVerdicts())
    assert len(judge_traced_functions(judge, traced, [kprobe], FprobeOwners())) == shown


def test_a_traced_function_has_the_module_of_its_callback() -> None:
    line = "f (1) tramp: 0xffffffffc0227000 (cb+0x0/0xa [my_tracer]) ->cb+0x0/0xa [my_tracer]\n"
    (traced,) = traced_functions.parse_enabled_functions(line)
    assert (traced.callbacks, traced.callback_modules) == (("cb",), ("my_tracer",))
    (traced,) = traced_functions.parse_enabled_functions("f (1) ->cb+0x0/0xa [my_tracer]\n")
    assert (traced.callbacks, traced.callback_modules) == (("cb",), ("my_tracer",))
    assert traced.named_tracer == "my_tracer"
    (traced,) = traced_functions.parse_enabled_functions(TRACED.splitlines()[0])
    assert (traced.callback_modules, traced.named_tracer) == ((), "kprobe_ftrace_handler")


def test_what_calls_several_tracers_is_none_of_them() -> None:
    *_, fentry, shared = traced_functions.parse_enabled_functions(TRACED)
    assert (fentry.named_tracer, shared.named_tracer) == ("bpf_trampoline_6442536467_1", "")


def test_listed_kprobes_have_their_latest_registrations() -> None:
    first, second, other = call(0x10), call(0x10), call(0x20)
    listed = [ListedProbe(0x10, "f+0x0", ()), ListedProbe(0x30, "g+0x0", ())]
    found, gone = match_registrations(listed, [first, other, second, call(0x40, error=22)])
    assert [each.registration for each in found] == [second, None]
    assert sorted(each.address for each in gone) == [0x10, 0x20]
    assert first in gone


def test_a_disabled_kprobe_has_the_registration_that_was_disabled() -> None:
    armed, disabled = call(0x10), call(0x10, disabled=True)
    listed = [ListedProbe(0x10, "f+0x0", ("[DISABLED]",)), ListedProbe(0x10, "f+0x0", ())]
    found, gone = match_registrations(listed, [disabled, armed])
    assert [each.registration for each in found] == [disabled, armed]
    assert gone == []


def test_a_disabled_kprobe_may_share_its_place_with_an_armed_one() -> None:
    disabled, gone = ListedProbe(0x10, "f+0x0", ("[DISABLED]",)), ListedProbe(0x20, "g+0x0", ("[GONE]",))
    assert armed_addresses([disabled, gone]) == frozenset()
    assert armed_addresses([disabled, ListedProbe(0x10, "f+0x0", ("[FTRACE]",))]) == {0x10}


def test_the_owner_is_the_module_with_the_handler_or_the_kprobe(tmp_path: Path) -> None:
    source, built = tmp_path / "m.s", tmp_path / "m.o"
    source.write_text(MODULE_WITH_DATA)
    subprocess.run(["aarch64-linux-gnu-as", "-o", built, source], check=True)
    sections = {".text": 0x1000, ".data": 0x9000, ".init.data": 0xA000}
    # The extent of the first module reaches over the code of the second one, whose parts stand apart.
    modules = [LoadedModule("wide", 0x800, 0x1000), LoadedModule("m", 0x1000, 0x200, Elf.read(built), sections)]
    assert [module_with_code(modules, at) for at in (0x1000, 0x900, 0x17FF, 0, 0x9000)] == ["m", "wide", "wide", "", ""]
    assert [module_with_data(modules, at) for at in (0x9000, 0x903F, 0x9040, 0xA000, 0)] == ["m", "m", "", "", ""]
    assert module_with_data(modules[:1], 0x900) == "wide"


@pytest.mark.parametrize(
    ("meaning", "site"),
    [
        ("uptime_proc_show+0x4", Site("uptime_proc_show", 4)),
        ("start_xmit+0x0 virtio_net", Site("start_xmit", 0, "virtio_net")),
        ("f+0x10/0x20 [mod]", Site("f", 16, "mod")),
        ("0xffffffff81000000", Site("0xffffffff81000000")),
    ],
)
def test_what_the_kernel_lists_is_a_site(meaning: str, site: Site) -> None:
    assert site_of_listed_probe(ListedProbe(0, meaning, ())) == site


def test_settings_that_changed_are_told_with_both_values() -> None:
    before = {"/a": ("1",), "/b": ("x", "y")}
    assert changed_settings.describe_changed_settings(before, before) == []
    after = {"/a": ("0",), "/b": ("x", "y", "z\t1"), "/c": ("new",)}
    assert changed_settings.describe_changed_settings(before, after) == [
        "/a was '1', is '0'",
        "/b was 'x; y', is 'z 1'",
        "/c was empty, is 'new'",
    ]


F, F_4, IN_MODULE = Site("f"), Site("f", 4), Site("f", 0, "mod")


@pytest.mark.parametrize(
    ("site", "addresses", "probe", "stands"),
    [
        (F, [0x10], JudgedProbe("alias+0x0", "kprobe", ProbeVerdict.LANDED, 0x10), True),
        (F_4, [0x14], JudgedProbe("_text+0x14", "kprobe", ProbeVerdict.DISABLED, 0x14), True),
        (F_4, [0x14], JudgedProbe("f+0x0", "kprobe", ProbeVerdict.LANDED, 0x10), False),
        (F, [0x10], JudgedProbe("f+0x0", "kprobe", ProbeVerdict.MISSED, 0x10), False),
        (F, [0x10], JudgedProbe("f+0x0", "kprobe", ProbeVerdict.LATE, 0x10), False),
        (F, [0x10], JudgedProbe("f", "fentry", ProbeVerdict.LANDED, 0x14), True),
        (F_4, [0x14], JudgedProbe("f", "fentry", ProbeVerdict.LANDED, 0x18), False),
        (IN_MODULE, [0x10], JudgedProbe("f [mod]", "fprobe", ProbeVerdict.LANDED, 0x14), True),
        (IN_MODULE, [0x10], JudgedProbe("f", "fprobe", ProbeVerdict.LANDED, 0x14), False),
        (F, [], JudgedProbe("f+0x0", "kprobe", ProbeVerdict.LANDED, None), False),
    ],
)
def test_what_is_expected_stands_by_address_or_by_an_ftrace_name(
    site: Site, addresses: list[int], probe: JudgedProbe, stands: bool
) -> None:
    assert probe_stands_at(site, addresses, [probe]) is stands


class Answering:
    """A guest that answers every script with the same text."""

    name = "vm"

    architecture = ARCHITECTURES["x86_64"]

    def __init__(self, out: str, rc: int = 0, err: str = "") -> None:
        self.result = Result("vm", (), rc, out.encode(), err.encode(), 0.0)
        self.scripts: list[str] = []

    def run_script(self, script: str) -> Result:
        self.scripts.append(script)
        return self.result


LISTS = "".join(
    f"{path}:{line}\n"
    for path, text in (
        ("/sys/kernel/debug/kprobes/list", "ffffffff81411c80  k  uptime_proc_show+0x0    [FTRACE]\n"),
        ("/proc/modules", "virtio 16384 1 virtio_net, Live 0xffffffffc0000000\n"),
        (traced_functions.FILE, TRACED),
        (registrations.FILE, RECORDS),
        (registrations.UPROBES, UPROBES),
    )
    for line in text.splitlines()
)


def test_all_lists_are_read_by_one_program() -> None:
    guest = Answering(LISTS)
    lists = listed_probes_and_modules.read_lists(cast(Guest, guest))
    assert [each.symbol_offset for each in lists.kprobes] == ["uptime_proc_show+0x0"]
    assert lists.module_names == ["virtio"]
    assert lists.traced_functions == traced_functions.parse_enabled_functions(TRACED)
    assert lists.records == registrations.parse_registrations(RECORDS + UPROBES)
    assert guest.scripts[0].count("grep") == 1


@pytest.mark.parametrize(
    "guest",
    [Answering(LISTS, 2, "grep: /sys/kernel/debug/kprobes/list: Permission denied\n"), Answering("", 127, "no grep\n")],
)
def test_a_list_that_cannot_be_read_is_one_line(guest: Answering) -> None:
    with pytest.raises(GuestError, match="its lists of probes cannot be read"):
        listed_probes_and_modules.read_lists(cast(Guest, guest))


def test_a_probe_whose_memory_was_not_read_is_not_judged() -> None:
    """What was asked for, the list and the file agree; none of them shows the probe in memory."""
    place = SitePlace(0x100, Symbol("f", 0x100, 16, ".text", "func", "local"))
    files = SimpleNamespace(
        find_places=lambda _, **__: SitePlaces((place,)),
        describe_address=lambda _: "f+0x0 [m]",
        reason_missing_at=lambda _: "",
    )
    nothing = GuestText(())
    judge = KprobeJudge(cast(LoadedFiles, files), nothing, nothing, [], [])
    found = FoundKprobe(ListedProbe(0x100, "f+0x0  [m]", ("[OPTIMIZED]",)), call(0x100, symbol="m:f"))
    judged = judge.judge_found_kprobe(found)
    assert (judged.verdict, judged.reason) == (ProbeVerdict.NOT_JUDGED, "no ELF file at hand has this address")


def test_a_probe_on_freed_code_is_named_as_it_was_asked_for() -> None:
    """The kernel names it by what has its address by then (seen: pinpoint_watch_init+0xa0 for dummy:dummy_xmit)."""
    gone = ListedProbe(0x100, "later_init+0xa0  later", ("[GONE]",))
    calls = [call(0x200, symbol="m:g"), call(0x100, symbol="m:f"), call(0x100, symbol="m:x", error=2)]
    assert name_of_standing_probe(gone, calls) == "m:f+0x0 [GONE]"
    assert name_of_standing_probe(gone, calls[:1]) == "later_init+0xa0  later [GONE]"
    assert name_of_standing_probe(replace(gone, flags=()), calls) == "later_init+0xa0  later"
    files = SimpleNamespace(
        find_places=lambda _, **__: SitePlaces(), describe_address=lambda _: "later_init+0xa0 [later]"
    )
    judge = KprobeJudge(cast(LoadedFiles, files), GuestText(()), GuestText(()), [], [])
    judged = judge.judge_found_kprobe(FoundKprobe(gone, calls[1]))
    assert (judged.verdict, judged.symbol_offset) == (ProbeVerdict.GONE, str(Site("f", 0, "m")))


def test_code_to_leave_stays_and_code_to_initialize_is_freed(tmp_path: Path) -> None:
    source, made = tmp_path / "m.s", tmp_path / "m.o"
    source.write_text("".join(f'.section {name}, "ax"\nret\n' for name in (".text", ".init.text", ".exit.text")))
    subprocess.run(["gcc", "-c", "-o", made, source], check=True)
    sections = {".text": 0x1000, ".init.text": 0x2000, ".exit.text": 0x3000}
    module = LoadedModule("m", 0x1000, 0x1000, Elf.read(made), sections)
    assert [name for name, _, _ in module.code_sections()] == [".text", ".exit.text"]


@pytest.mark.parametrize("order", ["little", "big"])
def test_each_module_has_its_sections_and_build_id(order: Literal["little", "big"]) -> None:
    note = b"".join(number.to_bytes(4, order) for number in (4, 6, 3)) + b"GNU\0" + bytes(range(6)) + b"\0\0"
    content = (note * 2).hex(" ")
    sections = "".join(f"/sys/module/{name}/sections/.text:0xc000{at}\n" for at, name in enumerate(("a", "b", "c"), 1))
    guest = Answering(f"{sections}--pinpoint-cut--\na\nc\n--pinpoint-cut--\n {content[:48]}\n {content[48:]}\n")
    finder = LoadedModuleFinder(cast(Guest, guest), {})
    answers = finder._ask(["a", "b", "c"])
    assert answers == {
        "a": ({".text": 0xC0001}, "000102030405"),
        "b": ({".text": 0xC0002}, ""),
        "c": ({".text": 0xC0003}, "000102030405"),
    }


def test_notes_of_a_module_that_has_gone_are_not_another_ones() -> None:
    guest = Answering("/sys/module/a/sections/.text:0x1\n--pinpoint-cut--\na\n--pinpoint-cut--\n\n")
    assert LoadedModuleFinder(cast(Guest, guest), {})._ask(["a"]) == {"a": ({".text": 1}, "")}


@pytest.mark.parametrize(
    ("machine", "symbol", "addresses"),
    [("EM_PPC64", ".f", [0x1004]), ("EM_PPC64", "f", [0x1004]), ("EM_PARISC", "f", [0x1004]), ("EM_PARISC", ".f", [])],
)
def test_a_dot_before_a_function_is_left_out_where_the_kernel_has_it(
    machine: str, symbol: str, addresses: list[int]
) -> None:
    function = Symbol("f", 0x1000, 8, ".text", "func", "global")
    kernel = SimpleNamespace(
        machine=machine,
        sections_by_name={".opd": None},
        symbols_named=lambda name: [function] if name == function.name else [],
    )
    layout = SimpleNamespace(kernel=kernel, symbol_address=lambda each, _: each.address)
    files = LoadedFiles(cast(Layout, layout), {})
    assert files.find_places(Site(symbol, 4)).addresses == addresses
    assert files.named_as_in_files(Site(symbol, 4)).symbol == ("f" if machine == "EM_PPC64" else symbol)


@pytest.mark.parametrize(("as_listed", "address"), [(False, 0x1008), (True, 0x1000)])
def test_only_what_is_asked_for_by_name_is_at_the_local_entry(as_listed: bool, address: int) -> None:
    """A probe by the address of a symbol stands there, and the kernel lists it as symbol + 0."""
    function = Symbol("f", 0x1000, 32, ".text", "func", "global")
    kernel = SimpleNamespace(machine="EM_PPC64", sections_by_name={}, symbols_named=lambda _: [function])
    layout = SimpleNamespace(kernel=kernel, symbol_address=lambda each, _: each.address, entry_shift_of=lambda *_: 8)
    found = LoadedFiles(cast(Layout, layout), {}).find_places(Site("f"), as_listed=as_listed)
    assert found.addresses == [address]


@pytest.mark.parametrize(
    ("site", "places", "why"),
    [
        (Site("f"), SitePlaces(), "no file at hand has a symbol f"),
        (Site("f", 0, "m"), SitePlaces(), "the file of m has no symbol f"),
        (Site("f", 0, "m"), SitePlaces(missing_reason="the module m is not loaded"), "the module m is not loaded"),
        (Site("f"), SitePlaces((SitePlace(16, cast("Symbol", None)),)), ""),
    ],
)
def test_a_site_without_a_place_has_a_reason(
    site: Site, places: SitePlaces, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadedFiles, "find_places", lambda *_: places)
    assert LoadedFiles(cast("Layout", None), {}).reason_without_places(site) == why

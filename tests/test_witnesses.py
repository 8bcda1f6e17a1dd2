"""Witnesses make the right statements, a landing needs their agreement, and the witness table shows both."""

import errno
from dataclasses import replace

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.landing import five_address_witnesses
from harness.landing.five_address_witnesses import Statement, Window
from harness.landing.landing_judgment import Landing, Missed, prove_landings
from harness.landing.own_bytes import OwnBytes
from harness.landing.probe_module import (
    ListedProbe,
    SiteReport,
    parse_kprobe_list,
    parse_report,
    without_one_for_each,
)
from harness.landing.site import Site

X86 = ARCHITECTURES["x86_64"].kprobe_traits
PARISC = ARCHITECTURES["parisc"].kprobe_traits
ARM = ARCHITECTURES["armhf"].kprobe_traits
RISCV = ARCHITECTURES["riscv64"].kprobe_traits
CODE = bytes.fromhex("0f1f440000554889e55dc3909090")


def patched(code: bytes, place: int, patch: bytes) -> bytes:
    return code[:place] + patch + code[place + len(patch) :]


def landing(*addresses: int | None, hits: int = 1) -> Landing:
    names = ("reported", "listed", "elf", "trapped", "outside")
    statements = [Statement(name, address, "why") for name, address in zip(names, addresses, strict=False)]
    return Landing(Site("leaf", 4, module="target"), statements, hits, lambda address: f"leaf+{address - 0x1000:#x}")


def test_agreement_of_three_is_a_landing() -> None:
    prove_landings([landing(0x1004, 0x1004, 0x1004, None, None)])


def test_one_disagreeing_witness_is_a_miss_and_the_table_names_it() -> None:
    with pytest.raises(Missed) as caught:
        prove_landings([landing(0x1004, 0x1004, 0x1004, 0x1004, 0x1009)])
    text = str(caught.value)
    assert "the witnesses disagree" in text
    assert "outside   0x1009   leaf+0x9" in text
    assert "leaf+0x4 [target]" in text


@pytest.mark.parametrize(
    ("addresses", "hits", "only"),
    [
        ((0x1009, 0x1004, 0x1004, 0x1004, 0x1004), 1, ("reported",)),
        ((0x1004, 0x1004, 0x1004, 0x1009, 0x1004), 1, ("trapped",)),
        ((0x1009, 0x1009, 0x1004, 0x1009, 0x1009), 1, ("elf",)),
        ((0x1009, 0x1009, 0x1004, 0x1004, 0x1004), 1, ()),
        ((0x1004, 0x1004, 0x1004, 0x1004, 0x1004), 2, ("hits",)),
        ((0x1009, 0x1004, 0x1004, 0x1004, 0x1004), 2, ()),
        ((0x1009, 0x1004, 0x1004, None, None), 1, ()),
    ],
)
def test_the_only_killer_is_the_witness_that_alone_disagrees(
    addresses: tuple[int | None, ...], hits: int, only: tuple[str, ...]
) -> None:
    with pytest.raises(Missed) as caught:
        prove_landings([landing(*addresses)], hits=hits)
    assert caught.value.only_killers == only


def test_a_list_with_another_number_of_entries_contradicts() -> None:
    one, two = ListedProbe(0x1004, "leaf+0x4", ()), ListedProbe(0x1009, "leaf+0x9", ())
    assert not five_address_witnesses.listed_statement([one], 0x1004, 1).contradicts
    more = five_address_witnesses.listed_statement([one, two], 0x1004, 1)
    assert (more.address, more.contradicts) == (0x1004, True)
    assert "2 new entries, 1 registered" in more.detail
    assert five_address_witnesses.listed_statement([], 0x1004, 1).contradicts


def test_two_witnesses_are_too_few_even_when_they_agree() -> None:
    with pytest.raises(Missed, match="only 2 of 5 witnesses have an address"):
        prove_landings([landing(0x1004, None, 0x1004, None, None)])


def test_one_that_contradicts_is_a_miss_however_many_agree() -> None:
    output = landing(0x1004, 0x1004, 0x1004, 0x1004, None)
    stale = Statement("outside", None, "nothing changed in 32 bytes from 0x1000", contradicts=True)
    with pytest.raises(Missed, match="the outside witness contradicts: nothing changed"):
        prove_landings([replace(output, statements=[*output.statements[:4], stale])])


def test_the_table_shows_the_bytes_that_each_witness_means() -> None:
    output = landing(0x1004, 0x1004, 0x1004)
    seen = Statement("outside", 0x1005, "5d became cc", code=b"\xcc\xc3")
    with pytest.raises(Missed) as caught:
        prove_landings([replace(output, statements=[*output.statements, seen])])
    header, *rows = str(caught.value).splitlines()[2:]
    assert header.split() == ["witness", "address", "means", "bytes", "detail"]
    assert rows[-1].split(maxsplit=4) == ["outside", "0x1005", "leaf+0x5", "ccc3", "5d became cc"]


def test_wrong_hits_are_a_miss() -> None:
    with pytest.raises(Missed, match="hit 2 times, its site ran 3 times"):
        prove_landings([landing(0x1004, 0x1004, 0x1004, hits=2)], hits=3)


def test_no_hits_are_right_when_none_are_due() -> None:
    prove_landings([landing(0x1004, 0x1004, 0x1004, hits=0)], hits=0)


@pytest.mark.parametrize(
    ("patch", "detail"),
    [(b"\xcc", "0f became cc"), (b"\xe9\1\2\3\4", "0f1f440000 became e901020304"), (b"\xe8\1\2\3\4", "became e8")],
)
def test_outside_reads_every_kind_of_patch(patch: bytes, detail: str) -> None:
    seen = five_address_witnesses.qemu_memory_statement(Window(0x1000, CODE, patched(CODE, 0, patch)), 0x1000, X86)
    assert seen.address == 0x1000
    assert detail in seen.detail


def test_outside_reports_the_change_closest_to_the_site() -> None:
    during = patched(patched(CODE, 0, b"\xcc"), 6, b"\xcc")
    assert five_address_witnesses.qemu_memory_statement(Window(0x1000, CODE, during), 0x1006, X86).address == 0x1006
    assert five_address_witnesses.qemu_memory_statement(Window(0x1000, CODE, during), 0x1000, X86).address == 0x1000


def test_outside_detects_a_probe_one_byte_off() -> None:
    window = Window(0x1000, CODE, patched(CODE, 6, b"\xcc"))
    assert five_address_witnesses.qemu_memory_statement(window, 0x1005, X86).address == 0x1006


def test_outside_contradicts_when_nothing_changed() -> None:
    seen = five_address_witnesses.qemu_memory_statement(Window(0x1000, CODE, CODE), 0x1000, X86)
    assert seen.address is None
    assert seen.contradicts
    assert "nothing changed" in seen.detail


def test_outside_does_not_take_any_change_for_a_probe() -> None:
    seen = five_address_witnesses.qemu_memory_statement(Window(0x1000, CODE, patched(CODE, 0, b"\x90")), 0x1000, X86)
    assert seen.contradicts
    assert "no probe" in seen.detail


@pytest.mark.parametrize("target", ["0be4e2c0", "db000102"], ids=["whole", "without-the-lowest-byte"])
def test_outside_takes_a_call_with_another_target_for_the_probe(target: str) -> None:
    """A live patch's call was there before, and ftrace let it call the probe, too."""
    before = patched(CODE, 4, bytes.fromhex("e8dbec0000"))
    during = patched(CODE, 4, bytes.fromhex(f"e8{target}"))
    seen = five_address_witnesses.qemu_memory_statement(Window(0x1000, before, during), 0x1004, X86)
    assert (seen.address, seen.contradicts) == (0x1004, False)
    # Without a call before, the same bytes are no probe.
    other = patched(CODE, 5, bytes.fromhex("dbec0000"))
    seen = five_address_witnesses.qemu_memory_statement(
        Window(0x1000, other, patched(other, 5, bytes.fromhex(target))), 0x1004, X86
    )
    assert seen.contradicts


def test_outside_aligns_on_fixed_width() -> None:
    # The first byte of the word happens to equal that of the breakpoint, so the change begins at the second byte.
    before = bytes.fromhex("6bc23fd9 03c01234 08030241")
    window = Window(0x1000, before, patched(before, 4, PARISC.breakpoints[0].value))
    assert five_address_witnesses.qemu_memory_statement(window, 0x1004, PARISC).address == 0x1004


def test_outside_takes_a_patch_that_the_window_cuts() -> None:
    # c.mv; addw, of which the window has two bytes; each has a probe.
    before, during = bytes.fromhex("a98f 1bd7"), bytes.fromhex("0290 7300")
    window = Window(0x1000, before, during)
    assert window.starts_of_changes(RISCV) == [0x1000, 0x1002]
    own = OwnBytes(0x1000, before, frozenset())
    assert not window.describe_unexplained_bytes(own, RISCV, listed=[0x1000, 0x1002])
    assert window.describe_unexplained_bytes(own, RISCV, listed=[0x1000])
    other = Window(0x1000, before, bytes.fromhex("0290 7301"))
    assert other.describe_unexplained_bytes(own, RISCV, listed=[0x1000, 0x1002])


@pytest.mark.parametrize(
    ("moved", "called", "place"),
    [
        ("2c001500", "f7a72856", 0x1000),  # move t0, ra; bl
        ("2c001500", "f7a72852", 0x1004),  # no bl
        ("00004003", "f7a72856", 0x1004),  # a nop where the kernel has the move
    ],
)
def test_a_call_of_ftrace_begins_at_the_instruction_before_it(moved: str, called: str, place: int) -> None:
    before = bytes.fromhex(f"{moved} 00004003 63c0ff02")
    window = Window(0x1000, before, patched(before, 4, bytes.fromhex(called)))
    assert window.starts_of_changes(ARCHITECTURES["loongarch64"].kprobe_traits) == [place]


def test_outside_takes_a_breakpoint_of_the_instructions_size() -> None:
    for code, patch in (("411106e4", "029006e4"), ("9b17d500", "73001000")):
        window = Window(0x1002, bytes.fromhex(code), bytes.fromhex(patch))
        assert five_address_witnesses.qemu_memory_statement(window, 0x1002, RISCV).address == 0x1002


@pytest.mark.parametrize("patch", ["f801f0e7", "f801f007", "f801f017", "123456ea", "1234560a"])
def test_outside_takes_arms_patches_with_any_condition(patch: str) -> None:
    before = bytes.fromhex("0010a0e1 04d08de2 1eff2fe1")
    window = Window(0x1000, before, patched(before, 4, bytes.fromhex(patch)))
    seen = five_address_witnesses.qemu_memory_statement(window, 0x1004, ARM)
    assert (seen.address, seen.contradicts) == (0x1004, False)


@pytest.mark.parametrize("patch", ["f901f0e7", "123456eb", "0010a0e3"])
def test_outside_takes_no_other_change_for_arms_probe(patch: str) -> None:
    before = bytes.fromhex("0010a0e1 04d08de2 1eff2fe1")
    window = Window(0x1000, before, patched(before, 4, bytes.fromhex(patch)))
    assert five_address_witnesses.qemu_memory_statement(window, 0x1004, ARM).contradicts


def test_restored_compares_after_with_before() -> None:
    probed = patched(CODE, 0, b"\xcc")
    assert Window(0x1000, CODE, probed, CODE).restored
    assert not Window(0x1000, CODE, probed, probed).restored


def test_trapped_takes_off_what_the_breakpoint_moved_the_ip_on() -> None:
    report = SiteReport("leaf", 0, 0x1000, 1, 0x1001)
    assert five_address_witnesses.hit_address_statement(report, X86).address == 0x1000
    assert five_address_witnesses.hit_address_statement(report, PARISC).address == 0x1001


def test_a_refused_site_reports_no_address() -> None:
    seen = five_address_witnesses.reported_statement(SiteReport("leaf", 2, 0, 0, 0))
    assert seen.address is None
    assert "errno 2" in seen.detail


def test_an_empty_list_makes_no_statement() -> None:
    assert five_address_witnesses.listed_statement([], 0x1000).address is None


def test_report_lines_are_read() -> None:
    (report,) = parse_report(
        "index=0 spec=hex2bin+0x5 errno=0 address=0xffffffff81000005 hits=3 missed=0 ip=0xffffffff81000006\n"
    )
    assert report == SiteReport("hex2bin+0x5", 0, 0xFFFFFFFF81000005, 3, 0xFFFFFFFF81000006)


def test_an_error_has_the_number_of_the_host() -> None:
    """SPARC's EILSEQ is EDQUOT elsewhere."""
    lines = [f"index=0 spec=f errno={number} address=0x0 hits=0 missed=0 ip=0x0" for number in (122, 22, 45)]
    reports = parse_report("\n".join(lines), ARCHITECTURES["sparc64"].host_errno)
    assert [each.errno for each in reports] == [errno.EILSEQ, errno.EINVAL, errno.EOPNOTSUPP]
    assert parse_report(lines[0])[0].errno == errno.EDQUOT


def test_list_lines_are_read() -> None:
    text = (
        "ffffffffc0008004  k  pinpoint_leaf+0x4  pinpoint_target  \n"
        "ffffffff81000000  k  hex2bin+0x0    [DISABLED][FTRACE]\n"
        "c0008000  r  pinpoint_leaf+0x0 [OPTIMIZED]\n"
    )
    assert parse_kprobe_list(text) == (
        ListedProbe(0xFFFFFFFFC0008004, "pinpoint_leaf+0x4 pinpoint_target", ()),
        ListedProbe(0xFFFFFFFF81000000, "hex2bin+0x0", ("[DISABLED]", "[FTRACE]")),
        ListedProbe(0xC0008000, "pinpoint_leaf+0x0", ("[OPTIMIZED]",), kind="r"),
    )


def test_an_optimized_probe_has_no_instruction_pointer_of_its_own() -> None:
    hit = SiteReport("leaf", 0, 0x1004, 3, 0x1005)
    assert five_address_witnesses.hit_address_statement(hit, X86).address == 0x1004
    optimized = five_address_witnesses.hit_address_statement(hit, X86, optimized=True)
    assert (optimized.address, optimized.contradicts) == (None, False)


def test_a_flag_may_mean_another_instruction_pointer() -> None:
    s390 = ARCHITECTURES["s390x"].kprobe_traits
    hit = SiteReport("leaf", 0, 0x1004, 3, 0x1006)
    assert five_address_witnesses.hit_address_statement(hit, s390).address == 0x1004
    assert five_address_witnesses.hit_address_statement(hit, s390, flags=("[FTRACE]",)).address == 0x1006
    assert five_address_witnesses.hit_address_statement(hit, s390, flags=("[DISABLED]",)).address == 0x1004


def test_an_optimized_probe_shows_its_handler_what_a_breakpoint_would() -> None:
    hit = SiteReport("leaf", 0, 0x1004, 3, 0x1004)
    wrong = five_address_witnesses.hit_address_statement(hit, X86, optimized=True)
    assert (wrong.address, wrong.contradicts) == (None, True)
    assert wrong.detail == "optimized: ip 0x1004 is not kp.addr + 1"


@pytest.mark.parametrize(
    ("confirmed_by", "detail"),
    [(None, ""), ((), "symbol confirmed by 0: nothing"), (("exports", "btf"), "symbol confirmed by 2: exports, btf")],
)
def test_the_elf_row_names_what_confirms_its_symbol(confirmed_by: tuple[str, ...] | None, detail: str) -> None:
    statement = five_address_witnesses.elf_statement(0x1004, confirmed_by)
    assert statement.detail == detail
    record = Landing(Site("leaf"), [statement], 0, hex).record()
    assert record.get("symbol", "") == detail


@pytest.mark.parametrize(
    ("own", "written"),
    [("0010a0e1", "f901f0e7"), ("00000091", "f901f097"), ("0010a003", "f901f007"), ("00f0d0f5", "f901f0e7")],
    ids=["always", "data", "eq", "unconditional space"],
)
def test_arms_uprobe_has_the_condition_of_what_it_replaces(own: str, written: str) -> None:
    assert ARM.uprobe_breakpoint_over(bytes.fromhex(own)) == bytes.fromhex(written)
    assert X86.uprobe_breakpoint_over(bytes.fromhex(own)) == b"\xcc"


def test_a_probe_whose_optimization_changed_is_not_a_new_one() -> None:
    """The kernel lists the newest probe of an address first; the oldest one is the one that stood before."""
    plain, jump = ListedProbe(0x1000, "f+0x0", ()), ListedProbe(0x1000, "f+0x0", ("[OPTIMIZED]",))
    off = ListedProbe(0x1000, "f+0x0", ("[DISABLED]",))
    assert without_one_for_each([plain], [jump]) == without_one_for_each([jump], [plain]) == []
    assert without_one_for_each([jump, plain], [plain]) == without_one_for_each([jump, plain], [jump]) == [jump]
    assert without_one_for_each([off], [plain]) == [off]

"""fprobes are found in the kernel's tables as kernels until 6.13 and since 6.14 have them, and have their owners."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

import pytest
from words_in_memory import WordsInMemory

from harness.core.errors import GuestError
from harness.core.struct_fields import FieldOffsetAndStruct, Fields
from harness.guest.guest import Guest
from harness.guest.kernel_structs import KernelStructs
from harness.guest.read_guest_memory import Memory
from harness.landing.verify import fprobe_owners, traced_functions
from harness.landing.verify.fprobe_owners import FprobeOwners
from harness.landing.verify.fprobes_in_guest_memory import Fprobe, Walker
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.landing.verify.loaded_modules import LoadedModule
from harness.landing.verify.site_addresses_from_elf_files import LoadedFiles

LIST, END, TABLE, HANDLER, OTHER_HANDLER = 0x100, 0x200, 0x300, 0x10, 0x20
ENTRY, LEAVE = 0x5010, 0x6010
OPS_STRUCTS = {
    "fprobe": {"ops": 0, "nmissed": 64, "entry_handler": 72, "exit_handler": 80},
    "ftrace_ops": {"func": 0, "next": 8, "flags": 16, "func_hash": 24},
    "ftrace_ops_hash": {"notrace_hash": 0, "filter_hash": 8},
    "ftrace_hash": {"size_bits": 0, "buckets": 8},
    "ftrace_func_entry": {"hlist": 0, "ip": 16, "direct": 24},
}
TABLE_STRUCTS = {
    "fprobe": {"nmissed": 0, "entry_handler": 8, "exit_handler": 16, "hlist_array": 24},
    "fprobe_hlist": {"hlist": 0, "rcu": 16, "fp": 32, "size": 40, "array": 48},
    "fprobe_hlist_node": {"hlist": 0, "addr": 16, "fp": 24},
}


def walker(memory: WordsInMemory, structs: Mapping[str, Mapping[str, int]]) -> Walker:
    fields: dict[str, Fields] = {
        name: {field: FieldOffsetAndStruct(offset, "") for field, offset in offsets.items()}
        for name, offsets in structs.items()
    }
    places = {
        "ftrace_ops_list": LIST,
        "ftrace_list_end": END,
        "fprobe_table": TABLE,
        "fprobe_handler": HANDLER,
        "fprobe_kprobe_handler": HANDLER + 8,
    }
    guest = cast(Guest, SimpleNamespace(name="made"))
    return Walker(guest, KernelStructs(cast(Memory, memory), fields, 8, "little"), places)


def memory_with_ops() -> WordsInMemory:
    """An fprobe on two sites of one bucket, a struct ftrace_ops of something else, and an fprobe at a return."""
    made = WordsInMemory()
    made.put(LIST, 0x1000)
    made.put(0x1000, HANDLER, 0x2000, 0, 0x1100)
    made.put(0x1000 + 72, ENTRY, LEAVE)
    made.put(0x1100 + 8, 0x1200)
    made.put(0x1200, 1, 0x1300)
    made.put(0x1300, 0, 0x1400)
    made.put(0x1400, 0x1500, 0x1308, 0xA0)
    made.put(0x1500, 0, 0x1400, 0xB0)
    made.put(0x2000, OTHER_HANDLER, 0x3000, 0, 0x1100)
    made.put(0x3000, HANDLER + 8, END, 0, 0x3100)
    made.put(0x3000 + 72, 0, LEAVE)
    made.put(0x3100 + 8, 0x3200)
    made.put(0x3200, 0, 0x3300)
    made.put(0x3300, 0x3400)
    made.put(0x3400, 0, 0x3300, 0xB0)
    return made


def memory_with_table() -> WordsInMemory:
    """The same fprobes; both are in one bucket of the table."""
    made = WordsInMemory()
    made.put(TABLE + 8 * 5, 0x1000)
    made.put(0x1000, 0x2000, TABLE, 0, 0, 0x1800, 2)
    made.put(0x1000 + 48, 0, 0, 0xA0, 0x1800, 0, 0, 0xB0, 0x1800)
    made.put(0x1800, 0, ENTRY, LEAVE)
    made.put(0x2000, 0, 0x1000, 0, 0, 0x2800, 1)
    made.put(0x2000 + 48, 0, 0, 0xB0, 0x2800)
    made.put(0x2800, 0, 0, LEAVE)
    return made


@pytest.mark.parametrize(
    ("memory", "structs", "places"),
    [(memory_with_ops(), OPS_STRUCTS, (0x1000, 0x3000)), (memory_with_table(), TABLE_STRUCTS, (0x1800, 0x2800))],
    ids=["ops", "table"],
)
def test_each_fprobe_has_its_sites(
    memory: WordsInMemory, structs: Mapping[str, Mapping[str, int]], places: tuple[int, int]
) -> None:
    entered, left = Fprobe(places[0], ENTRY), Fprobe(places[1], LEAVE)
    found = sorted(walker(memory, structs).sites_and_fprobes(), key=str)
    assert found == sorted([(0xA0, entered), (0xB0, entered), (0xB0, left)], key=str)


def test_memory_without_such_tables_is_an_error() -> None:
    """A list that goes in circles, and the numbers of something that is no table."""
    circle = memory_with_ops()
    circle.put(0x3000 + 8, 0x1000)
    wide = memory_with_ops()
    wide.put(0x1200, 60)
    for memory in (circle, wide):
        with pytest.raises(GuestError, match="no fprobes"):
            list(walker(memory, OPS_STRUCTS).sites_and_fprobes())
    many = memory_with_table()
    many.put(0x1000 + 40, 1 << 30)
    with pytest.raises(GuestError, match="no fprobes"):
        list(walker(many, TABLE_STRUCTS).sites_and_fprobes())


def _files() -> LoadedFiles:
    modules = {"mine": LoadedModule("mine", 0x5000, 0x100), "data": LoadedModule("data", 0x7000, 0x100)}
    return cast(LoadedFiles, SimpleNamespace(modules=modules, describe_address=lambda address: f"f{address:x}+0x0"))


def test_the_owner_has_the_handler_or_the_fprobe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of BPF and tracefs, whose handler is the kernel's and whose fprobe is allocated, the handler is shown."""
    found = {0xA0: (Fprobe(0x7010, 0x5010),), 0xB0: (Fprobe(0x7010, 0x9000), Fprobe(0x8000, 0x9000))}
    monkeypatch.setattr(fprobe_owners, "read_fprobes", lambda _: found)
    owners = FprobeOwners.read(cast(Guest, None), _files())
    assert owners.by_site == {0xA0: ("mine",), 0xB0: ("data", "f9000")}


FPROBE = "f (1) R\ttramp: 0xffffffffc0254000 (fprobe_handler+0x0/0x1b0) ->fprobe_handler+0x0/0x1b0\n"
SHARED = "f (2) R\t->arch_ftrace_ops_list_func+0x0/0x1e0\n"
OTHERS = "f (1) tramp: 0xffffffffc0227000 (cb+0x0/0xa [my_tracer]) ->cb+0x0/0xa [my_tracer]\n"


GRAPH = "f (1) R\ttramp: 0xffffffffc0417000 (ftrace_graph_func+0x0/0x40) ->ftrace_graph_func+0x0/0x40\n"


@pytest.mark.parametrize(
    ("line", "owner", "kind"),
    [
        (FPROBE, "mine", "fprobe"),
        (GRAPH, "mine", "fprobe"),
        (SHARED, "mine", "ftrace"),
        (OTHERS, "my_tracer", "ftrace"),
    ],
)
def test_a_probe_has_the_owner_of_its_site(line: str, owner: str, kind: str) -> None:
    """Since 6.14 an fprobe with an exit handler is behind the graph tracer (seen on 7.3)."""
    (traced,) = traced_functions.parse_enabled_functions(line)
    judged = JudgedProbe("f", traced.kind, ProbeVerdict.LANDED, 0xA0, owner="my_tracer")
    after = FprobeOwners({0xA0: ("mine",)}).add_owner(judged, traced)
    assert (after.owner, after.kind) == (owner, kind)


def test_an_owner_that_cannot_be_read_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Guest) -> None:
        raise GuestError("no BTF", where="made")

    monkeypatch.setattr(fprobe_owners, "read_fprobes", fail)
    (traced,) = traced_functions.parse_enabled_functions(FPROBE)
    judged = JudgedProbe("f", traced.kind, ProbeVerdict.LANDED, 0xA0, owner="fprobe_handler")
    after = FprobeOwners.read(cast(Guest, None), _files()).add_owner(judged, traced)
    assert (after.owner, after.notes) == ("fprobe_handler", ("its owner is not known: no BTF",))

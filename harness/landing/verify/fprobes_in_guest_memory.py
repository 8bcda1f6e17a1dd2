"""The fprobes that stand on each ftrace site, with their handlers, read from the kernel's own tables in guest memory.

No file of a guest shows them: `enabled_functions` has the kernel's handler, which all fprobes share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.core.errors import GuestError, PinpointError
from harness.core.struct_fields import fields_by_struct
from harness.guest.guest import Guest
from harness.guest.kernel_structs import KernelStructs
from harness.landing.layout import Layout

# Until 6.13 each fprobe has a struct ftrace_ops, which is in this list; ftrace_list_end is its last element.
_OPS, _OPS_END = "ftrace_ops_list", "ftrace_list_end"
_OPS_HANDLERS = ("fprobe_handler", "fprobe_kprobe_handler")
_OPS_STRUCTS = ("fprobe", "ftrace_ops", "ftrace_ops_hash", "ftrace_hash", "ftrace_func_entry")
# Since 6.14 this table has them all: FPROBE_TABLE_SIZE, kernel/trace/fprobe.c, 6.14 and 7.3.
_TABLE, _TABLE_SIZE = "fprobe_table", 1 << 6
_TABLE_STRUCTS = ("fprobe", "fprobe_hlist", "fprobe_hlist_node")
# A walk that finds more goes in circles.
_MOST_OPS, _MOST_SITES, _MOST_BUCKET_BITS = 4096, 1 << 17, 16
_INT = 4


@dataclass(frozen=True)
class Fprobe:
    """One fprobe: the addresses of its struct and of its entry handler, or of its exit handler if it has no other."""

    address: int
    handler: int


def read_fprobes(guest: Guest) -> dict[int, tuple[Fprobe, ...]]:
    """Read the fprobes by ftrace site.

    Raises PinpointError when the kernel's file has no type information or does not show the place of the tables, and
    GuestError when memory has no such tables, for example because they changed meanwhile.
    """
    found: dict[int, list[Fprobe]] = {}
    for site, fprobe in Walker.of(guest).sites_and_fprobes():
        found.setdefault(site, []).append(fprobe)
    return {site: tuple(dict.fromkeys(fprobes)) for site, fprobes in found.items()}


@dataclass(frozen=True)
class Walker:
    """Walks the tables of one guest; `places` are the addresses of the kernel's own symbols."""

    guest: Guest
    structs: KernelStructs
    places: Mapping[str, int]

    @classmethod
    def of(cls, guest: Guest) -> Walker:
        """A walker of this guest's kernel. Raises PinpointError."""
        layout = Layout(guest)
        elf, vmlinux = layout.kernel, guest.image.vmlinux
        by_ops = "ops" in fields_by_struct(vmlinux, _OPS_STRUCTS[:1])["fprobe"]
        fields = fields_by_struct(vmlinux, _OPS_STRUCTS if by_ops else _TABLE_STRUCTS)
        named = {
            name: symbols[0].address + layout.slide
            for name in (_OPS, _OPS_END, _TABLE, *_OPS_HANDLERS)
            if (symbols := elf.symbols_named(name))
        }
        absent = [name for name in ((_OPS, _OPS_END) if by_ops else (_TABLE,)) if name not in named]
        if absent:
            raise PinpointError(f"it has no symbol {absent[0]}", where=str(vmlinux))
        return cls(guest, KernelStructs(guest.memory, fields, elf.word_bytes, elf.byte_order), named)

    def sites_and_fprobes(self) -> Iterator[tuple[int, Fprobe]]:
        """Every site of every fprobe. Raises GuestError."""
        every = self._by_ops() if "ops" in self.structs.fields["fprobe"] else self._by_table()
        for count, found in enumerate(every):
            if count == _MOST_SITES:
                raise self._no_table(f"more than {_MOST_SITES} sites of fprobes")
            yield found

    def _by_ops(self) -> Iterator[tuple[int, Fprobe]]:
        handlers = {self.places[name] for name in _OPS_HANDLERS if name in self.places}
        ops = self.structs.pointer(self.places[_OPS])
        for _ in range(_MOST_OPS):
            if ops == self.places[_OPS_END]:
                return
            content = self.structs.content(ops, "ftrace_ops")
            if self.structs.field(content, "ftrace_ops", "func") in handlers:
                fprobe = self._fprobe(ops - self.structs.offset("fprobe", "ops"))
                for site in self._hashed_sites(self.structs.field(content, "ftrace_ops", "func_hash")):
                    yield site, fprobe
            ops = self.structs.field(content, "ftrace_ops", "next")
        raise self._no_table(f"{_OPS} has no end")

    def _hashed_sites(self, hashes: int) -> Iterator[int]:
        """The sites in the filter of a struct ftrace_ops."""
        hashed = self.structs.pointer(hashes + self.structs.offset("ftrace_ops_hash", "filter_hash"))
        content = self.structs.content(hashed, "ftrace_hash")
        bits = self.structs.field(content, "ftrace_hash", "size_bits")
        if bits > _MOST_BUCKET_BITS:
            raise self._no_table(f"a filter of {bits} bits")
        buckets = self.structs.words(self.structs.field(content, "ftrace_hash", "buckets"), 1 << bits)
        node, address = (
            self.structs.offset("ftrace_func_entry", "hlist"),
            self.structs.offset("ftrace_func_entry", "ip"),
        )
        for content in self._chains(buckets, node, "ftrace_func_entry"):
            yield self.structs.word_in(content, address)

    def _by_table(self) -> Iterator[tuple[int, Fprobe]]:
        heads = self.structs.words(self.places[_TABLE], _TABLE_SIZE)
        array = self.structs.offset("fprobe_hlist", "array")
        node = self.structs.end("fprobe_hlist_node")
        for content, place in self._chains_and_places(
            heads, self.structs.offset("fprobe_hlist", "hlist"), "fprobe_hlist"
        ):
            fprobe = self._fprobe(self.structs.field(content, "fprobe_hlist", "fp"))
            count = self.structs.number(content, self.structs.offset("fprobe_hlist", "size"), _INT)
            if count > _MOST_SITES:
                raise self._no_table(f"an fprobe on {count} sites")
            nodes = self.structs.memory.read(place + array, node * count)
            for number in range(count):
                at = node * number + self.structs.offset("fprobe_hlist_node", "addr")
                yield self.structs.word_in(nodes, at), fprobe

    def _chains(self, heads: list[int], link: int, struct: str) -> Iterator[bytes]:
        return (content for content, _ in self._chains_and_places(heads, link, struct))

    def _chains_and_places(self, heads: list[int], link: int, struct: str) -> Iterator[tuple[bytes, int]]:
        """Each element of lists of struct hlist_node, which is at `link`, with its address; a level at a time."""
        level = [head for head in heads if head]
        for _ in range(_MOST_SITES):
            if not level:
                return
            places = [node - link for node in level]
            contents = self.structs.contents(places, struct)
            yield from zip(contents, places, strict=True)
            # The first word of a struct hlist_node is the next one.
            level = [following for content in contents if (following := self.structs.word_in(content, link))]
        raise self._no_table(f"a list of struct {struct} has no end")

    def _fprobe(self, address: int) -> Fprobe:
        content = self.structs.content(address, "fprobe")
        entry, leave = (self.structs.field(content, "fprobe", name) for name in ("entry_handler", "exit_handler"))
        return Fprobe(address, entry or leave)

    def _no_table(self, what: str) -> GuestError:
        return GuestError(f"its memory has no fprobes: {what}", where=self.guest.name)

"""The harness's own BTF has the right fields when read back."""

from __future__ import annotations

import struct

from harness.pinning.holds.btf_encoder import FUNCTION, BaseBtfSizes, encode_function

BASE = BaseBtfSizes(type_count=1000, strings_size=5000)


def test_it_reports_one_function_of_void() -> None:
    made = encode_function(BASE, "<")
    magic, version, _, head, types_at, types, strings_at, strings = struct.unpack_from("<HBBIIIII", made)
    assert (magic, version, head) == (0xEB9F, 1, 24)
    assert (types_at, types_at + types, strings_at + strings) == (0, strings_at, len(made) - head)
    prototype, function = struct.iter_unpack("<III", made[head : head + types])
    assert prototype == (0, 13 << 24, 0)
    name, info, of = function
    assert (info >> 24, of) == (12, BASE.type_count + 1)
    text = made[head + strings_at :]
    assert text[name - BASE.strings_size :] == f"{FUNCTION}\0".encode()


def test_the_function_is_the_second_type_behind_those_of_vmlinux() -> None:
    assert BASE.new_function_type_id == 1002


def test_it_is_as_long_as_its_section_in_the_target_module() -> None:
    assert len(encode_function(BASE, ">")) == 64

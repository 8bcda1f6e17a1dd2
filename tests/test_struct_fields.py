"""Fields of structs, by BTF and by DWARF of one source."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core.errors import PinpointError
from harness.core.struct_fields import FieldOffsetAndStruct, fields_by_struct

SOURCE = """
struct list_head { struct list_head *next, *prev; };
struct thing {
	char first;
	union { int a; struct { char b; short c; }; };
	unsigned int bits : 3;
	struct list_head list;
	enum { ONE, TWO } kind;
	struct thing *other;
	long end;
};
struct thing thing;
"""
FIELDS = {
    "first": FieldOffsetAndStruct(0, ""),
    "a": FieldOffsetAndStruct(4, ""),
    "b": FieldOffsetAndStruct(4, ""),
    "c": FieldOffsetAndStruct(6, ""),
    "list": FieldOffsetAndStruct(16, "list_head"),
    "kind": FieldOffsetAndStruct(32, ""),
    "other": FieldOffsetAndStruct(40, ""),
    "end": FieldOffsetAndStruct(48, ""),
}


@pytest.fixture(params=["-gbtf", "-gdwarf-4", "-gdwarf-5"])
def described(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A shared object with type information in one format."""
    source, made = tmp_path / "thing.c", tmp_path / "thing.so"
    source.write_text(SOURCE)
    command = ["gcc", "-m64", "-shared", "-fPIC", request.param, "-o", str(made), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return made


def test_fields(described: Path) -> None:
    found = fields_by_struct(described, ("thing",))["thing"]
    assert {name: field for name, field in found.items() if name != "bits"} == FIELDS


def test_unknown_struct(described: Path) -> None:
    with pytest.raises(PinpointError, match="describes struct other"):
        fields_by_struct(described, ("thing", "other"))


def test_without_types(tmp_path: Path) -> None:
    source, made = tmp_path / "thing.c", tmp_path / "thing.so"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-shared", "-o", str(made), str(source)], check=True, timeout=60)
    with pytest.raises(PinpointError, match="no BTF and no DWARF"):
        fields_by_struct(made, ("thing",))


def test_broken_btf(tmp_path: Path) -> None:
    source, made = tmp_path / "thing.c", tmp_path / "thing.so"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-gbtf", "-shared", "-o", str(made), str(source)], check=True, timeout=60)
    content = bytearray(made.read_bytes())
    place = content.find(bytes.fromhex("9feb010018000000"))
    content[place + 24 : place + 64] = b"\xff" * 40
    made.write_bytes(bytes(content))
    with pytest.raises(PinpointError, match="cannot be read"):
        fields_by_struct(made, ("thing",))

"""What is drawn of a trial of relocation by hand: the bytes of one function, and the text layout of two builds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field


class RecordedBytesAroundAddress(BaseModel):
    """Some bytes of text around one address.

    `address` is that of the first byte and `code` the bytes in hex. `kinds` names for each byte what stands there, as
    `AddressKind` does: `instruction` where an instruction begins, `mid_instruction`, `in_stub`, and so on; empty where
    nothing is known. `marked` is the index of the byte that is pointed to, `label` the function and offset there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: int
    code: str = Field(pattern=r"^(?:[0-9a-f]{2})*$")
    kinds: Sequence[str]
    marked: int
    label: str


class RelocatedFunctionExample(BaseModel):
    """One function: where it is, which is where symbol + offset points, and where relocation by hand points.

    `by_hand` is None where that is outside of all text. `place` is what stands there, `distance` how far it is from the
    function, in bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    function: str
    by_symbol: RecordedBytesAroundAddress
    by_hand: RecordedBytesAroundAddress | None
    place: str
    distance: int


class FunctionInTwoBuilds(NamedTuple):
    """A function in two builds: its distance from the base where the probe was made, and here; its size. In bytes."""

    name: str
    made_for: int
    here: int
    size: int

"""Decoders of our own agree with capstone over every instruction of every kernel, each built if the store lacks it.

`./pinpoint test decoders` runs them; the unit tests compare one kernel.
"""

from __future__ import annotations

import pytest
from decoder_reference import REFERENCES, compare_kernel

from harness.images.vm_recipe import load_all

VMS = [name for name, recipe in load_all().items() if recipe.architecture.kprobe_traits.decoder in REFERENCES]
# The words in text that capstone does not know: data, and instructions of a few extensions (24 mfc0 and mtc0 of MIPS).
# 64-bit PA-RISC and SPARC have their jump tables in the text, LoongArch has zeros behind it, and SuperH has its
# constants among its instructions.
MOST_UNKNOWN = {"loongarch64": 5_000, "parisc64": 10_000, "sparc64": 5_000, "sh4": 120_000}


@pytest.mark.parametrize("kernel_of", VMS)
def test_every_instruction(kernel_of: str) -> None:
    compared = compare_kernel(kernel_of)
    assert compared.known > 100_000
    assert compared.disagreements == []
    assert len(compared.unknown) <= MOST_UNKNOWN.get(kernel_of, 32), compared.unknown

"""32-bit programs on a 64-bit kernel: by architecture a uprobe lands in them, or the kernel refuses it."""

import pytest

from harness.images.user_targets import COMPAT, FIRST_LIBRARY, RUNNER
from harness.userspace.uprobes_fixture import Uprobes
from harness.userspace.uprobes_in_32bit_programs import prove_32bit_uprobes

TIMES = 3


@pytest.mark.requires("uprobes", "programs_32bit")
@pytest.mark.mutants("user-unarmed", deep=("user-left-registered",))
@pytest.mark.parametrize("way", [pytest.param("tracefs", marks=pytest.mark.deep), "module"])
@pytest.mark.parametrize("name", [FIRST_LIBRARY, pytest.param(RUNNER, marks=pytest.mark.deep)])
def test_32bit(uprobes: Uprobes, name: str, way: str) -> None:
    """x86 decodes the instruction as 32-bit code and probes it; arm64 returns EOPNOTSUPP where the code is mapped."""
    file = uprobes.target_file(name, COMPAT)
    symbol = f"pinpoint_{'one' if name == FIRST_LIBRARY else 'runner'}_leaf"
    with uprobes.runner_of_build(COMPAT) as process:
        prove_32bit_uprobes(uprobes, process, file, symbol, way, TIMES)

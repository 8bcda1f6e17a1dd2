"""/sys/module/M/sections and /proc/kallsyms agree: a function is at its section's address + its offset in the file.

add_sect_attrs() (kernel/module/sysfs.c, 6.1) and add_kallsyms() (kernel/module/kallsyms.c) are independent.
"""

import pytest

from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.lookup.kallsyms_ambiguous_and_freed_names import functions_missed_by_symbol
from harness.landing.site import Site
from harness.landing.target import Target


@pytest.mark.requires("kprobes")
def test_functions_of_sections(layout: Layout, target: Target) -> None:
    """Every loaded function with a unique name is at its section's address + its offset in the file."""
    functions = [
        (Site(each.name, module=target.module), each) for each in target.functions(target.lasting_sections, unique=True)
    ]
    missed = functions_missed_by_symbol(
        layout, [(site, layout.symbol_address(symbol, target.module)) for site, symbol in functions]
    )
    assert len(functions) > 10
    if missed:
        raise Missed(f"{len(missed)} of {len(functions)} functions are not at section + offset: {missed[0]}, ...")

"""The judgment of a probe whose target was removed and loaded again."""

import pytest

from harness.landing.landing_judgment import Missed
from harness.landing.probe_module import ListedProbe
from harness.pinning.kprobes_across_module_reload import AcrossRemovalResult

PLACE = 0xFFFFFFFFC02432B7


def result(*flags: tuple[str, ...], hits: int = 2) -> AcrossRemovalResult:
    """A result with one listed probe for each tuple of flags."""
    return AcrossRemovalResult(tuple(ListedProbe(PLACE, "leaf+0x7", each) for each in flags), hits, target_moved=False)


def test_one_gone_probe_that_is_not_hit_again_holds() -> None:
    result(("[GONE]",)).prove()
    result(("[DISABLED]", "[GONE]")).prove()


@pytest.mark.parametrize(
    ("across", "named"),
    [
        (result(()), "lists ffffffffc02432b7 without a flag, not one probe as [GONE]"),
        (result(), "lists nothing, not one probe as [GONE]"),
        (result(("[GONE]",), ("[DISABLED]",)), "lists ffffffffc02432b7 [GONE], ffffffffc02432b7 [DISABLED], not"),
        (result(("[GONE]",), hits=5), "hit 5 times"),
    ],
)
def test_any_other_end_is_named(across: AcrossRemovalResult, named: str) -> None:
    with pytest.raises(Missed) as caught:
        across.prove()
    assert named in str(caught.value)

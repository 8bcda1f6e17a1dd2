"""Documented defects of one kernel, which cases assert instead of a claim that the kernel breaks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from harness.images.recipe_table import RecipeTable

_Cause = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]+$", max_length=2048)]


class KernelDefects(RecipeTable):
    """The cause of each defect that the recipe's kernel has, with file, function and version; None for one it lacks.

    `gone_stays_on_ftrace`: ftrace's filter keeps the address of a kprobe whose module was unloaded, and calls the
    handler of kprobes there in the next module at that address.
    `stubs_out_of_reach`: a module whose text is larger than a branch reaches is refused with ENOEXEC, because all its
    stubs stand before the text.
    `gone_probe_has_no_copy`: a kprobe at the address of one that is GONE is a NULL dereference in can_optimize(), which
    reads the copy of the instruction that was freed when the module went.
    `stack_store_waits`: an instruction that makes a stack frame is emulated in part. Its store is done at the return
    from the trap, after pending interrupts are handled. A probe on such an instruction in their handlers is a WARNING.
    `signal_before_uprobe`: a thread that gets a signal while the copy of an instruction under a uprobe is stepped
    handles the signal first, for which uprobe_deny_signal() prints a WARNING.
    `symbol_sections_unchecked`: a module with a symbol in a section that its file does not have is loaded; the kernel
    reads the address of that section past the end of the table of sections.
    `descriptors_blacklisted`: NOKPROBE_SYMBOL() in a module adds the addresses of descriptors to the blacklist, and the
    bytes from there on, instead of the functions. Descriptors in the module's data are not added at all.
    `uprobe_resume_address_shared`: the address at which a process continues after a uprobe is kept with the uprobe, so
    that a hit in another process, which has the file elsewhere, changes it.
    `stopped_call_not_repeated`: a system call that SIGSTOP has interrupted fails with EINTR after SIGCONT, instead of
    being repeated, unless the instruction before its trap sets the number of the call.
    """

    gone_stays_on_ftrace: _Cause | None = None
    stubs_out_of_reach: _Cause | None = None
    gone_probe_has_no_copy: _Cause | None = None
    stack_store_waits: _Cause | None = None
    signal_before_uprobe: _Cause | None = None
    symbol_sections_unchecked: _Cause | None = None
    descriptors_blacklisted: _Cause | None = None
    stopped_call_not_repeated: _Cause | None = None
    uprobe_resume_address_shared: _Cause | None = None

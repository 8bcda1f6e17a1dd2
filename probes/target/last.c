// SPDX-License-Identifier: GPL-2.0
/*
 * The end of a target's text: nops, in a section that the last object has and
 * that therefore comes last.
 *
 * What follows them in memory are zeros up to the next page, and zeros are
 * instructions of two bytes on x86. Where a module's text is mapped by itself
 * (since 6.4) an odd number of them makes can_optimize() read on behind the
 * mapping, and a probe on the module's last function is an oops
 * (arch/x86/kernel/kprobes/opt.c, 6.12). After these nops the number is even.
 */
asm(".pushsection .text.pinpoint_last, \"ax\"\n"
    ".balign 16\n"
    ".rept 16\n"
    "nop\n"
    ".endr\n"
    ".popsection\n");

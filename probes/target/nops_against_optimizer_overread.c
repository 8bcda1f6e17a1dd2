// SPDX-License-Identifier: GPL-2.0
/*
 * The end of a target's text: nops, in a section of the last object, which
 * therefore comes last.
 *
 * Zeros follow them in memory up to the next page, and on x86 zeros are
 * instructions of two bytes. Where a module's text is mapped by itself (since
 * 6.4), an odd number of zeros makes can_optimize() read past the mapping, and a
 * probe on the module's last function is an oops
 * (arch/x86/kernel/kprobes/opt.c, 6.12). After these nops the number is even.
 */
asm(".pushsection .text.pinpoint_last, \"ax\"\n"
    ".balign 16\n"
    ".rept 16\n"
    "nop\n"
    ".endr\n"
    ".popsection\n");

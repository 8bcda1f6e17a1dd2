// SPDX-License-Identifier: GPL-2.0
/*
 * What stands between the two functions: a text section that nothing calls
 */
#include <linux/stringify.h>

asm(".pushsection .text.pinpoint_padding, \"ax\"\n\t"
    ".skip " __stringify(PINPOINT_PADDING) "\n\t"
    ".popsection");

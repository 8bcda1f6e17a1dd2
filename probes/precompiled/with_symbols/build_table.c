// SPDX-License-Identifier: GPL-2.0
/* build_table.c, compiled again for the probe that has the targets' symbols, too. */
#define PINPOINT_WITH_SYMBOLS
#include "../build_table.c"

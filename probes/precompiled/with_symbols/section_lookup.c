// SPDX-License-Identifier: GPL-2.0
/* section_lookup.c, compiled again for the probe that has the targets' symbols, too. */
#define PINPOINT_WITH_SYMBOLS
#include "../section_lookup.c"

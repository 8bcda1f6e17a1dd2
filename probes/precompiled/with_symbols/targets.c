// SPDX-License-Identifier: GPL-2.0
/* targets.c, compiled again for the probe that has the targets' symbols, too. */
#define PINPOINT_WITH_SYMBOLS
#include "../targets.c"

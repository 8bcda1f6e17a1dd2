// SPDX-License-Identifier: GPL-2.0
/* The files of pinpoint_precompiled, for the probe that has the targets' symbols, too. */
#define PINPOINT_WITH_SYMBOLS
#include "../module.c"

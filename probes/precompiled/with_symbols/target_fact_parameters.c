// SPDX-License-Identifier: GPL-2.0
/* target_fact_parameters.c, compiled again for the probe that has the targets' symbols, too. */
#define PINPOINT_WITH_SYMBOLS
#include "../target_fact_parameters.c"

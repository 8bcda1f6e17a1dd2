// SPDX-License-Identifier: GPL-2.0
/* references_from_handles.c, compiled again for the probe that has the targets' symbols, too. */
#define PINPOINT_WITH_SYMBOLS
#include "../references_from_handles.c"

// SPDX-License-Identifier: GPL-2.0
/* pinned/gates.c, compiled again for the probe that has its sites in its own memory. */
#include "../pinned/gates.c"

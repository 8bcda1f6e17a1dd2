// SPDX-License-Identifier: GPL-2.0
/* probe/report.c, compiled again for the probe that has its sites in its own memory. */
#include "../probe/report.c"

// SPDX-License-Identifier: GPL-2.0
/* probe/report.c, compiled again for the module that relocates by hand. */
#include "../probe/report.c"

// SPDX-License-Identifier: GPL-2.0
/* probe/report.c once more, for the module that relocates by hand. */
#include "../probe/report.c"

// SPDX-License-Identifier: GPL-2.0
/* probe/report.c, compiled again for the module that is loaded precompiled. */
#include "../probe/report.c"

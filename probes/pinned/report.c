// SPDX-License-Identifier: GPL-2.0
/* probe/report.c once more, for the module that is loaded precompiled. */
#include "../probe/report.c"

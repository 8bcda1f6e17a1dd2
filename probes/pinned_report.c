// SPDX-License-Identifier: GPL-2.0
/* probe_report.c once more, for the module that is loaded precompiled. */
#include "probe_report.c"

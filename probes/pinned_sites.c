// SPDX-License-Identifier: GPL-2.0
/* probe_sites.c once more, for the module that is loaded precompiled. */
#include "probe_sites.c"

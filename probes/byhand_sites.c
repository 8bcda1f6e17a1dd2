// SPDX-License-Identifier: GPL-2.0
/* probe_sites.c once more, for the module that relocates by hand. */
#include "probe_sites.c"

// SPDX-License-Identifier: GPL-2.0
/* probe/sites.c once more, for the module that probes returns. */
#include "../probe/sites.c"

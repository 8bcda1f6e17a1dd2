// SPDX-License-Identifier: GPL-2.0
/* probe/spec.c, compiled again for the module that probes returns. */
#include "../probe/spec.c"

// SPDX-License-Identifier: GPL-2.0
/* probe_spec.c once more, for the module that probes returns. */
#include "probe_spec.c"

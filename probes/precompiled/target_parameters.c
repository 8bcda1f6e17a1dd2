// SPDX-License-Identifier: GPL-2.0
/* pinned/target_parameters.c, compiled again for the probe that has its sites in its own memory. */
#include "../pinned/target_parameters.c"

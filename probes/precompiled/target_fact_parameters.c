// SPDX-License-Identifier: GPL-2.0
/* pinned/target_fact_parameters.c, compiled again; this probe has its sites in its own memory. */
#include "../pinned/target_fact_parameters.c"

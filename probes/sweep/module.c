// SPDX-License-Identifier: GPL-2.0
/* The files of pinpoint_sweep, which are compiled as one (probes/Kbuild). */
#include "main.c"
#include "site_list.c"
#include "batch.c"
#include "hold_armed_batch_without_hits.c"
#include "report.c"
#include "mutants.c"

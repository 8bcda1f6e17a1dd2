// SPDX-License-Identifier: GPL-2.0
/* The files of pinpoint_byhand, which are compiled as one (probes/Kbuild). */
#include "../probe/main.c"
#include "../probe/site_parameter.c"
#include "base_index_spec.c"
#include "../probe/mutants.c"
#include "../probe/report.c"

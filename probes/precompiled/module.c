// SPDX-License-Identifier: GPL-2.0
/* The files of pinpoint_precompiled, which are compiled as one (probes/Kbuild). */
#include "../pinned/main.c"
#include "../pinned/target_fact_parameters.c"
#include "../pinned/references_from_handles.c"
#include "../pinned/identity.c"
#include "../pinned/gates.c"
#include "../probe/report.c"
#include "sites.c"
#include "section_lookup.c"
#include "build_table.c"

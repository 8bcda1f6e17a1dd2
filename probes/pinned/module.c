// SPDX-License-Identifier: GPL-2.0
/* The files of pinpoint_pinned, which are compiled as one (probes/Kbuild). */
#include "main.c"
#include "target_fact_parameters.c"
#include "expected_build_ids.c"
#include "references_from_handles.c"
#include "identity.c"
#include "gates.c"
#include "spec.c"
#include "../probe/site_parameter.c"
#include "../probe/report.c"

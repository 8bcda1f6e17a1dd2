// SPDX-License-Identifier: GPL-2.0
/* The files of pinpoint_probe, which are compiled as one (probes/Kbuild). */
#include "main.c"
#include "site_parameter.c"
#include "spec.c"
#include "mutants.c"
#include "report.c"
#include "site_operations.c"

// SPDX-License-Identifier: GPL-2.0
/* The files of pinpoint_data, which are compiled as one (probes/Kbuild). */
#include "addresses_to_read.c"
#include "report.c"
#include "resolve.c"

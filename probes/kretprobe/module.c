// SPDX-License-Identifier: GPL-2.0
/* The files of pinpoint_returns, which are compiled as one (probes/Kbuild). */
#include "main.c"
#include "../probe/site_parameter.c"
#include "../probe/spec.c"

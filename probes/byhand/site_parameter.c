// SPDX-License-Identifier: GPL-2.0
/* probe/site_parameter.c, compiled again for the module that relocates by hand. */
#include "../probe/site_parameter.c"

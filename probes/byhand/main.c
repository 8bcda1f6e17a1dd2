// SPDX-License-Identifier: GPL-2.0
/* probe/main.c, compiled again for the module that relocates by hand. */
#include "../probe/main.c"

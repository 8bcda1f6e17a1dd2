// SPDX-License-Identifier: GPL-2.0
/* probe/main.c once more, for the module that relocates by hand. */
#include "../probe/main.c"

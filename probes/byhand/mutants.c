// SPDX-License-Identifier: GPL-2.0
/* probe/mutants.c, compiled again for the module that relocates by hand. */
#include "../probe/mutants.c"

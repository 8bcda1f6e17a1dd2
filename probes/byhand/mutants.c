// SPDX-License-Identifier: GPL-2.0
/* probe/mutants.c once more, for the module that relocates by hand. */
#include "../probe/mutants.c"

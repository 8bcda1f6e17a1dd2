// SPDX-License-Identifier: GPL-2.0
/* target_branches.c once more, for the module built with -ffunction-sections. */
#include "target_branches.c"

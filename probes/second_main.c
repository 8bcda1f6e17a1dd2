// SPDX-License-Identifier: GPL-2.0
/* target_main.c once more, for the second target. */
#include "target_main.c"

// SPDX-License-Identifier: GPL-2.0
/* target_last.c once more, for the second target. */
#include "target_last.c"

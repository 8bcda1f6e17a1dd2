// SPDX-License-Identifier: GPL-2.0
/* target_call.c once more, for the second target. */
#include "target_call.c"

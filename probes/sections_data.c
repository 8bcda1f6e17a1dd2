// SPDX-License-Identifier: GPL-2.0
/* target_data.c once more, for the module built with -ffunction-sections. */
#include "target_data.c"

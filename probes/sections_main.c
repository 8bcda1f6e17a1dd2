// SPDX-License-Identifier: GPL-2.0
/* target_main.c once more, for the module built with -ffunction-sections. */
#include "target_main.c"

// SPDX-License-Identifier: GPL-2.0
/* target/branches.c, compiled again for the module built with -ffunction-sections. */
#include "../target/branches.c"

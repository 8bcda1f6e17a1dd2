// SPDX-License-Identifier: GPL-2.0
/* target/branches.c once more, for the module built with -ffunction-sections. */
#include "../target/branches.c"

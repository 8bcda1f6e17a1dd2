// SPDX-License-Identifier: GPL-2.0
/* target/main.c, compiled again for the module built with -ffunction-sections. */
#include "../target/main.c"

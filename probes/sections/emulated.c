// SPDX-License-Identifier: GPL-2.0
/* target/emulated.c, compiled again for the module built with -ffunction-sections. */
#include "../target/emulated.c"

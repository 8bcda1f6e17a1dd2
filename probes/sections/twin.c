// SPDX-License-Identifier: GPL-2.0
/* target/twin.c, compiled again for the module built with -ffunction-sections. */
#include "../target/twin.c"

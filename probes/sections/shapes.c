// SPDX-License-Identifier: GPL-2.0
/* target/shapes.c, compiled again for the module built with -ffunction-sections. */
#include "../target/shapes.c"

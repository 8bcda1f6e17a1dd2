// SPDX-License-Identifier: GPL-2.0
/* target/shapes.c once more, for the module built with -ffunction-sections. */
#include "../target/shapes.c"

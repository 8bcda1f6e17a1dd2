// SPDX-License-Identifier: GPL-2.0
/* target/cold.c, compiled again for the module built with -ffunction-sections. */
#include "../target/cold.c"

// SPDX-License-Identifier: GPL-2.0
/* target/cold.c once more, for the module built with -ffunction-sections. */
#include "../target/cold.c"

// SPDX-License-Identifier: GPL-2.0
/* target/emulated.c once more, for the module built with -ffunction-sections. */
#include "../target/emulated.c"

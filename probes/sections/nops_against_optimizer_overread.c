// SPDX-License-Identifier: GPL-2.0
/* target/nops_against_optimizer_overread.c, compiled again for the module built with -ffunction-sections. */
#include "../target/nops_against_optimizer_overread.c"

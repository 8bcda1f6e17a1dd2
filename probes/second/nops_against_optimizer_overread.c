// SPDX-License-Identifier: GPL-2.0
/* target/nops_against_optimizer_overread.c, compiled again for the second target. */
#include "../target/nops_against_optimizer_overread.c"

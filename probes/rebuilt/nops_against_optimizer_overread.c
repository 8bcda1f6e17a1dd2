// SPDX-License-Identifier: GPL-2.0
/* target/nops_against_optimizer_overread.c, compiled again for the target in another layout. */
#include "../target/nops_against_optimizer_overread.c"

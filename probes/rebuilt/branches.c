// SPDX-License-Identifier: GPL-2.0
/* target/branches.c, compiled again for the target in another layout. */
#include "../target/branches.c"

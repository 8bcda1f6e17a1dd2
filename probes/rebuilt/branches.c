// SPDX-License-Identifier: GPL-2.0
/* target/branches.c once more, for the target in another layout. */
#include "../target/branches.c"

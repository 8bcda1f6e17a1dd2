// SPDX-License-Identifier: GPL-2.0
/* target_branches.c once more, for the target in another layout. */
#include "../target_branches.c"

// SPDX-License-Identifier: GPL-2.0
/* target_last.c once more, for the target in another layout. */
#include "../target_last.c"

// SPDX-License-Identifier: GPL-2.0
/* target_main.c once more, for the target in another layout. */
#include "../target_main.c"

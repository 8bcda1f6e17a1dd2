// SPDX-License-Identifier: GPL-2.0
/* target_twin.c once more, for the target in another layout. */
#include "../target_twin.c"

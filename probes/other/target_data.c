// SPDX-License-Identifier: GPL-2.0
/* target_data.c once more, for the target in another layout. */
#include "../target_data.c"

// SPDX-License-Identifier: GPL-2.0
/* target/data.c once more, for the target in another layout. */
#include "../target/data.c"

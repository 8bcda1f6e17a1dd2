// SPDX-License-Identifier: GPL-2.0
/* target/main.c once more, for the target in another layout. */
#include "../target/main.c"

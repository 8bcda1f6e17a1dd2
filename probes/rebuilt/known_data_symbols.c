// SPDX-License-Identifier: GPL-2.0
/* target/data.c, compiled again for the target in another layout. */
#include "../target/known_data_symbols.c"

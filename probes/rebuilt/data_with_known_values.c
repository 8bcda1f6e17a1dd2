// SPDX-License-Identifier: GPL-2.0
/* target/data_with_known_values.c, compiled again for the target in another layout. */
#include "../target/data_with_known_values.c"

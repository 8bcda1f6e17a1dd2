// SPDX-License-Identifier: GPL-2.0
/* target/data.c, compiled again for the module built with -ffunction-sections. */
#include "../target/known_data_symbols.c"

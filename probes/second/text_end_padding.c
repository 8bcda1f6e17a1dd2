// SPDX-License-Identifier: GPL-2.0
/* target/text_end_padding.c, compiled again for the second target. */
#include "../target/text_end_padding.c"

// SPDX-License-Identifier: GPL-2.0
/* target/text_end_padding.c, compiled again for the target in another layout. */
#include "../target/text_end_padding.c"

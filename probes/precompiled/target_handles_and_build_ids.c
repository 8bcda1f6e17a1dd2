// SPDX-License-Identifier: GPL-2.0
/* pinned/target_handles_and_build_ids.c, compiled again; this probe has its sites in its own memory. */
#include "../pinned/target_handles_and_build_ids.c"

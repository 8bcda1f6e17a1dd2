// SPDX-License-Identifier: GPL-2.0
/* pinned/references_from_handles.c, compiled again for the probe that has its sites in its own memory. */
#include "../pinned/references_from_handles.c"

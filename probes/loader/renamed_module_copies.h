/* SPDX-License-Identifier: GPL-2.0 */
/* One module loaded many times, each time under another name. */
#ifndef PINPOINT_RENAMED_MODULE_COPIES_H
#define PINPOINT_RENAMED_MODULE_COPIES_H

void hold_copies(const char *path, const char *module, const char *count);

#endif

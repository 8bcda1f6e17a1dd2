/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PINPOINT_MODULE_LOAD_AND_REMOVAL_H
#define PINPOINT_MODULE_LOAD_AND_REMOVAL_H

void open_image(const char *path, int in_memory);
void load_image(const char *name, const char *parameters);
int delete_probe(const char *name, int flags);
void watch_removals(void);
void await_removal(const char *name);

#endif

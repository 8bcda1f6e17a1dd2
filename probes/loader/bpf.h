/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PINPOINT_BPF_H
#define PINPOINT_BPF_H

int attach_fentry(const char *words);
int use_link(int fd);
void count_btf(const char *path);

#endif

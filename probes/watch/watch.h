/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the files of pinpoint_watch: the records.
 */
#ifndef PINPOINT_WATCH_H
#define PINPOINT_WATCH_H

#include <linux/fs.h>
#include <linux/kprobes.h>
#include <linux/types.h>

extern const struct file_operations pinpoint_records_fops;

int pinpoint_open_records(void);
void pinpoint_close_records(void);
void pinpoint_record(const struct kprobe *kp, u64 began, int error);

#endif

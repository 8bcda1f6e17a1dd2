/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of pinpoint_watch share: the records of kprobes and of uprobes.
 */
#ifndef PINPOINT_WATCH_H
#define PINPOINT_WATCH_H

#include <linux/fs.h>
#include <linux/kprobes.h>
#include <linux/types.h>

extern const struct file_operations pinpoint_records_fops;

int pinpoint_open_records(void);
void pinpoint_close_records(void);
void pinpoint_record(const struct kprobe *kp, unsigned long handler, u64 began, int error);

unsigned long pinpoint_missed(const struct kretprobe *probe);
unsigned long pinpoint_missed_calls(void);

int pinpoint_watch_uprobes(unsigned int file, unsigned int offset);
void pinpoint_forget_uprobes(void);
const struct file_operations *pinpoint_uprobes_file(void);

#endif

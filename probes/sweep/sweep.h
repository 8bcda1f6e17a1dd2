/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the files of pinpoint_sweep: one batch of sites.
 */
#ifndef PINPOINT_SWEEP_H
#define PINPOINT_SWEEP_H

#include <linux/dcache.h>
#include <linux/kprobes.h>
#include <linux/mutex.h>
#include <linux/types.h>

/**
 * struct pinpoint_swept - one site of the batch, and its result
 * @kp: the kprobe; its symbol_name is in the batch's text
 * @error: 0 once the kernel has accepted the kprobe, else its errno, negative
 * @hits: how often the pre-handler ran
 * @ip: the instruction pointer as the pre-handler last saw it
 */
struct pinpoint_swept {
	struct kprobe kp;
	int error;
	unsigned long hits;
	unsigned long ip;
};

/**
 * struct pinpoint_batch - the sites that are registered together
 * @text: the text that was written, cut up into names
 * @length: bytes of @text
 * @sites: in the order of the text
 * @count: how many there are
 * @registered: those registered now, filled from the end, the last of @count first
 * @standing: how many these are
 * @registering: nanoseconds that registering all took
 * @removing: nanoseconds that removing all took
 */
struct pinpoint_batch {
	char *text;
	size_t length;
	struct pinpoint_swept *sites;
	unsigned int count;
	struct kprobe **registered;
	unsigned int standing;
	u64 registering;
	u64 removing;
};

/**
 * struct pinpoint_flight_recorder - read from outside, also from a dead guest
 * @trying: number in the batch of the site last passed to the kernel
 * @hit: number of the site that was last hit
 * @held: 1 while a batch is armed and nothing else runs
 */
struct pinpoint_flight_recorder {
	u32 trying;
	u32 hit;
	u32 held;
};

extern struct pinpoint_flight_recorder pinpoint_recorder;

/* Protects the batch. */
extern struct mutex pinpoint_sweeping;
extern struct pinpoint_batch pinpoint_batch;

/* A kprobe's number in the batch. */
static __always_inline u32 pinpoint_number(struct kprobe *kp)
{
	return container_of(kp, struct pinpoint_swept, kp) - pinpoint_batch.sites;
}

int pinpoint_append_text(const char __user *buf, size_t count);
int pinpoint_read_batch(void);
void pinpoint_forget_batch(void);
int pinpoint_register_batch(bool armed);
int pinpoint_hold_batch(void);
void pinpoint_remove_batch(void);
int pinpoint_sweep_register(unsigned int index, struct kprobe *kp);
void pinpoint_open_sweep_report(struct dentry *dir);

#endif

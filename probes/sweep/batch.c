// SPDX-License-Identifier: GPL-2.0
/*
 * Registering and removing a whole batch.
 *
 * Kprobes are registered one by one, because register_kprobes() undoes all at the
 * first refusal. They are removed together, so that all wait for one grace period.
 */
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/sched.h>

#include "sweep.h"

struct pinpoint_flight_recorder pinpoint_recorder;

/*
 * Any function of the kernel may hit this, in any context, so it calls nothing. If
 * two processors race, a count may be too low.
 */
static int pinpoint_swept_over(struct kprobe *kp, struct pt_regs *regs)
{
	struct pinpoint_swept *site = container_of(kp, struct pinpoint_swept, kp);

	WRITE_ONCE(pinpoint_recorder.hit, pinpoint_number(kp));
	WRITE_ONCE(site->ip, instruction_pointer(regs));
	WRITE_ONCE(site->hits, site->hits + 1);
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_swept_over);

/* The kernel would refuse a kprobe with the remains of an earlier registration. */
static void pinpoint_renew(struct kprobe *kp, bool armed)
{
	const char *symbol = kp->symbol_name;
	unsigned int offset = kp->offset;

	memset(kp, 0, sizeof(*kp));
	kp->symbol_name = symbol;
	kp->offset = offset;
	kp->pre_handler = pinpoint_swept_over;
	kp->flags = armed ? 0 : KPROBE_FLAG_DISABLED;
}

/*
 * The last registered is the first to be removed. ftrace walks its records from
 * the lowest address up to the highest site of its list
 * (__ftrace_hash_rec_update()), so batches in order of addresses are faster.
 */
static void pinpoint_last_first(struct pinpoint_batch *batch, struct kprobe *kp)
{
	batch->registered[batch->count - ++batch->standing] = kp;
}

/**
 * pinpoint_register_batch() - register every site of the batch
 * @armed: also place breakpoints
 *
 * Return: 0; refusals by the kernel are recorded in the sites.
 */
int pinpoint_register_batch(bool armed)
{
	struct pinpoint_batch *batch = &pinpoint_batch;
	u64 began = ktime_get_ns();
	unsigned int i;

	for (i = 0; i < batch->count; i++) {
		struct pinpoint_swept *site = &batch->sites[i];

		WRITE_ONCE(pinpoint_recorder.trying, i);
		pinpoint_renew(&site->kp, armed);
		site->error = pinpoint_sweep_register(i, &site->kp);
		if (!site->error)
			pinpoint_last_first(batch, &site->kp);
		cond_resched();
	}
	batch->registering = ktime_get_ns() - began;
	return 0;
}

/**
 * pinpoint_remove_batch() - unregister all registered sites
 */
void pinpoint_remove_batch(void)
{
	struct pinpoint_batch *batch = &pinpoint_batch;
	u64 began = ktime_get_ns();

	unregister_kprobes(batch->registered + batch->count - batch->standing, batch->standing);
	batch->standing = 0;
	batch->removing = ktime_get_ns() - began;
}

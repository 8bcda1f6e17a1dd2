// SPDX-License-Identifier: GPL-2.0
/*
 * Misuses of memory, lists, references, locks and contexts that a kernel detects
 * only if it was configured to, and of the console, which every kernel reports.
 */
#include <linux/bottom_half.h>
#include <linux/console.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "crash.h"

#define PINPOINT_BYTES	48
/* More than a log of 2 MiB holds. */
#define PINPOINT_RECORDS	8192

static DEFINE_MUTEX(pinpoint_first);
static DEFINE_MUTEX(pinpoint_second);
static void __rcu *pinpoint_shared;
/* volatile, so that the compiler knows nothing about the pointer stored here. */
static void *volatile pinpoint_lost;

static noinline void pinpoint_use_after_free(unsigned int seconds)
{
	pinpoint_lost = kmalloc(PINPOINT_BYTES, GFP_KERNEL);
	kfree(pinpoint_lost);
	READ_ONCE(*((char *)pinpoint_lost + 8));
}

static noinline void pinpoint_past_the_end(unsigned int seconds)
{
	pinpoint_lost = kmalloc(PINPOINT_BYTES, GFP_KERNEL);
	WRITE_ONCE(*((char *)pinpoint_lost + PINPOINT_BYTES), 1);
	kfree(pinpoint_lost);
}

/*
 * The allocator of 7.3 keeps freed objects in arrays (struct slab_sheaf,
 * mm/slub.c), and looks at them when all arrays are full. KASAN reports each of
 * these calls.
 */
#define PINPOINT_FREES	(IS_ENABLED(CONFIG_KASAN) ? 2 : 1 << 15)

static noinline void pinpoint_free_twice(unsigned int seconds)
{
	int i;

	pinpoint_lost = kmalloc(PINPOINT_BYTES, GFP_KERNEL);
	for (i = 0; i < PINPOINT_FREES; i++)
		kfree(pinpoint_lost);
}

/* kmemleak reports it after a scan. */
static noinline void pinpoint_leak(unsigned int seconds)
{
	int i;

	for (i = 0; i < 8; i++)
		pinpoint_lost = kmalloc(PINPOINT_BYTES, GFP_KERNEL);
	pinpoint_lost = NULL;
}

static noinline void pinpoint_list(unsigned int seconds)
{
	LIST_HEAD(head);
	struct list_head item;

	list_add(&item, &head);
	head.next = &head;
	list_del(&item);
}

static noinline void pinpoint_refcount(unsigned int seconds)
{
	refcount_t count = REFCOUNT_INIT(0);

	refcount_inc(&count);
}

/* Allocates pages until the kernel kills the process that requested them. */
static noinline void pinpoint_exhaust(unsigned int seconds)
{
	struct page *page, *next;
	LIST_HEAD(taken);

	while (!fatal_signal_pending(current)) {
		page = alloc_page(GFP_KERNEL);
		if (!page)
			break;
		list_add(&page->lru, &taken);
	}
	list_for_each_entry_safe(page, next, &taken, lru)
		__free_page(page);
}

static noinline void pinpoint_lock_order(unsigned int seconds)
{
	mutex_lock(&pinpoint_first);
	mutex_lock(&pinpoint_second);
	mutex_unlock(&pinpoint_second);
	mutex_unlock(&pinpoint_first);
	mutex_lock(&pinpoint_second);
	mutex_lock(&pinpoint_first);
	mutex_unlock(&pinpoint_first);
	mutex_unlock(&pinpoint_second);
}

static noinline void pinpoint_rcu(unsigned int seconds)
{
	pinpoint_lost = rcu_dereference(pinpoint_shared);
}

static noinline void pinpoint_sleep_atomic(unsigned int seconds)
{
	local_bh_disable();
	might_sleep();
	local_bh_enable();
}

static noinline void pinpoint_schedule_atomic(unsigned int seconds)
{
	local_bh_disable();
	schedule_timeout_uninterruptible(1);
	local_bh_enable();
}

#define PINPOINT_HARDENED \
	(IS_ENABLED(CONFIG_SLAB_FREELIST_HARDENED) || IS_ENABLED(CONFIG_KASAN))

/* The log overruns while nothing prints it: the console reports what it dropped. */
static noinline void pinpoint_drop(unsigned int seconds)
{
	int i;

	console_lock();
	for (i = 0; i < PINPOINT_RECORDS; i++)
		printk(KERN_DEBUG "pinpoint_crash: record %0512d\n", i);
	console_unlock();
}

const struct pinpoint_trigger pinpoint_misuses[] = {
	{ "use_after_free", pinpoint_use_after_free, IS_ENABLED(CONFIG_KASAN) },
	{ "past_the_end", pinpoint_past_the_end, IS_ENABLED(CONFIG_KASAN) },
	{ "free_twice", pinpoint_free_twice, PINPOINT_HARDENED },
	{ "leak", pinpoint_leak, IS_ENABLED(CONFIG_DEBUG_KMEMLEAK) },
	{ "list", pinpoint_list, IS_ENABLED(CONFIG_DEBUG_LIST) },
	{ "refcount", pinpoint_refcount, true },
	{ "lock_order", pinpoint_lock_order, IS_ENABLED(CONFIG_PROVE_LOCKING) },
	{ "rcu", pinpoint_rcu, IS_ENABLED(CONFIG_PROVE_RCU) },
	{ "sleep_atomic", pinpoint_sleep_atomic, IS_ENABLED(CONFIG_DEBUG_ATOMIC_SLEEP) },
	{ "schedule_atomic", pinpoint_schedule_atomic, true },
	{ "exhaust", pinpoint_exhaust, true },
	{ "drop", pinpoint_drop, true },
	{ }
};

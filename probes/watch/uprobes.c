// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/debug/pinpoint_watch/uprobes: one line for each registration of
 * a uprobe that returned, in the order of return, then one line with the number
 * of calls that did not fit or were missed, and that of the functions below that
 * are watched. A call that two of them missed counts twice.
 *
 * time=123 errno=0 device=8:1 inode=7 offset=0x10 pid=1 file=busybox command=perf
 * lost=0 functions=2
 *
 * perf, BPF, tracefs and systemtap all register uprobes through
 * uprobe_register() or, up to 6.11, through uprobe_register_refctr(). The
 * kernel itself lists none of them. Link-time optimization makes both a part of
 * their callers in other files, which then call __uprobe_register() (6.1, clang
 * with thin LTO). So that one is watched too, and a registration that both of
 * them see is recorded once. `file` is one name of the inode, "-" when it has
 * none.
 */
#include <linux/dcache.h>
#include <linux/kdev_t.h>
#include <linux/kprobes.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/vmalloc.h>

#include "watch.h"

#define PINPOINT_UPROBES 4096
/* How many records a return looks back over: those of other CPUs may lie between. */
#define PINPOINT_LOOK_BACK 64
#define PINPOINT_NAME 64

/**
 * struct pinpoint_uprobe - one registration of a uprobe
 * @began: when it was called, in nanoseconds
 * @inode: the number of the file's inode
 * @offset: the offset into the file
 * @device: the device that has the inode
 * @error: what the kernel returned, 0 for a uprobe that was registered
 * @pid: the caller's process
 * @done: the record is complete
 * @command: the caller's name
 * @file: a name of the inode, empty when it has none
 */
struct pinpoint_uprobe {
	u64 began;
	u64 inode;
	u64 offset;
	dev_t device;
	int error;
	pid_t pid;
	bool done;
	char command[TASK_COMM_LEN];
	char file[PINPOINT_NAME];
};

/* Behind those that are shown, room for the last ones that did not fit: two functions may see one of them, too. */
static struct pinpoint_uprobe *pinpoint_uprobes;
static atomic_t pinpoint_uprobes_taken = ATOMIC_INIT(0);
static unsigned int pinpoint_file_argument;
static unsigned int pinpoint_offset_argument;

/* What the entry handler leaves for the return handler. */
struct pinpoint_uprobe_call {
	struct inode *inode;
	u64 offset;
	u64 began;
};

static unsigned long pinpoint_argument(struct pt_regs *regs, unsigned int at)
{
	return *(unsigned long *)((char *)regs + at);
}
NOKPROBE_SYMBOL(pinpoint_argument);

static int pinpoint_uprobe_entered(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct pinpoint_uprobe_call *call = (void *)instance->data;

	call->inode = (struct inode *)pinpoint_argument(regs, pinpoint_file_argument);
	call->offset = pinpoint_argument(regs, pinpoint_offset_argument);
	call->began = ktime_get_ns();
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_uprobe_entered);

/* Linux 7.0 has moved the list of an inode's names, and has a macro to walk it. */
#ifndef for_each_alias
#define for_each_alias(dentry, inode) hlist_for_each_entry(dentry, &(inode)->i_dentry, d_u.d_alias)
#endif

/* No reference is taken: dput() may sleep, which a handler must not. */
static void pinpoint_name(struct inode *inode, char *to, size_t size)
{
	struct dentry *dentry;

	spin_lock(&inode->i_lock);
	for_each_alias(dentry, inode) {
		spin_lock(&dentry->d_lock);
		strscpy(to, dentry->d_name.name, size);
		spin_unlock(&dentry->d_lock);
		break;
	}
	spin_unlock(&inode->i_lock);
}
NOKPROBE_SYMBOL(pinpoint_name);

/* The place of the registration of this number, counted from 0. */
static struct pinpoint_uprobe *pinpoint_place(unsigned int number)
{
	if (number >= PINPOINT_UPROBES)
		number = PINPOINT_UPROBES + number % PINPOINT_LOOK_BACK;
	return &pinpoint_uprobes[number];
}
NOKPROBE_SYMBOL(pinpoint_place);

/* Whether the function that returns now called one that has recorded the registration. */
static bool pinpoint_recorded(const struct pinpoint_uprobe_call *call)
{
	unsigned int index = atomic_read(&pinpoint_uprobes_taken);
	unsigned int end = index > PINPOINT_LOOK_BACK ? index - PINPOINT_LOOK_BACK : 0;

	while (index-- > end) {
		const struct pinpoint_uprobe *entry = pinpoint_place(index);

		if (smp_load_acquire(&entry->done) && entry->pid == current->pid)
			return entry->began >= call->began && entry->inode == call->inode->i_ino &&
			       entry->offset == call->offset;
	}
	return false;
}
NOKPROBE_SYMBOL(pinpoint_recorded);

static int pinpoint_uprobe_returned(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct pinpoint_uprobe_call *call = (void *)instance->data;
	/* Since 6.12 it returns a pointer or an error, before that 0 or an error. */
	int returned = (int)regs_return_value(regs);
	struct pinpoint_uprobe *entry;

	if (pinpoint_recorded(call))
		return 0;
	entry = pinpoint_place((unsigned int)atomic_inc_return(&pinpoint_uprobes_taken) - 1);
	smp_store_release(&entry->done, false);
	entry->began = call->began;
	entry->inode = call->inode->i_ino;
	entry->offset = call->offset;
	entry->device = call->inode->i_sb->s_dev;
	entry->error = returned < 0 && returned >= -MAX_ERRNO ? returned : 0;
	entry->pid = current->pid;
	get_task_comm(entry->command, current);
	pinpoint_name(call->inode, entry->file, sizeof(entry->file));
	smp_store_release(&entry->done, true);
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_uprobe_returned);

#define PINPOINT_UPROBE_CALLS(function)					\
	{								\
		.kp.symbol_name = function,				\
		.entry_handler = pinpoint_uprobe_entered,		\
		.handler = pinpoint_uprobe_returned,			\
		.data_size = sizeof(struct pinpoint_uprobe_call),	\
		.maxactive = 32,					\
	}

static struct kretprobe pinpoint_uprobe_calls[] = {
	PINPOINT_UPROBE_CALLS("uprobe_register"),
	PINPOINT_UPROBE_CALLS("uprobe_register_refctr"),
	PINPOINT_UPROBE_CALLS("__uprobe_register"),
};
static bool pinpoint_uprobe_watched[ARRAY_SIZE(pinpoint_uprobe_calls)];

/**
 * pinpoint_watch_uprobes() - record registrations from now on
 * @file: offset in struct pt_regs of a function's first argument, in bytes
 * @offset: the same of its second argument
 *
 * A kernel without uprobes has none of the functions, and nothing to record.
 */
int pinpoint_watch_uprobes(unsigned int file, unsigned int offset)
{
	unsigned int index;

	pinpoint_uprobes = vzalloc((PINPOINT_UPROBES + PINPOINT_LOOK_BACK) * sizeof(*pinpoint_uprobes));
	if (!pinpoint_uprobes)
		return -ENOMEM;
	pinpoint_file_argument = file;
	pinpoint_offset_argument = offset;
	for (index = 0; index < ARRAY_SIZE(pinpoint_uprobe_calls); index++)
		pinpoint_uprobe_watched[index] = !register_kretprobe(&pinpoint_uprobe_calls[index]);
	return 0;
}

/**
 * pinpoint_forget_uprobes() - stop recording and free the records
 */
void pinpoint_forget_uprobes(void)
{
	unsigned int index;

	for (index = 0; index < ARRAY_SIZE(pinpoint_uprobe_calls); index++)
		if (pinpoint_uprobe_watched[index])
			unregister_kretprobe(&pinpoint_uprobe_calls[index]);
	vfree(pinpoint_uprobes);
}

static int pinpoint_uprobes_show(struct seq_file *out, void *at)
{
	unsigned int taken = atomic_read(&pinpoint_uprobes_taken);
	unsigned int index, functions = 0;
	unsigned long missed = 0;

	for (index = 0; index < ARRAY_SIZE(pinpoint_uprobe_calls); index++) {
		missed += pinpoint_missed(&pinpoint_uprobe_calls[index]);
		functions += pinpoint_uprobe_watched[index];
	}
	for (index = 0; index < min_t(unsigned int, taken, PINPOINT_UPROBES); index++) {
		const struct pinpoint_uprobe *entry = &pinpoint_uprobes[index];

		if (!smp_load_acquire(&entry->done))
			continue;
		seq_printf(out, "time=%llu errno=%d device=%u:%u inode=%llu offset=0x%llx pid=%d file=",
			   entry->began, -entry->error, MAJOR(entry->device), MINOR(entry->device),
			   entry->inode, entry->offset, entry->pid);
		seq_escape(out, entry->file[0] ? entry->file : "-", " \t\n\\");
		seq_puts(out, " command=");
		seq_escape(out, entry->command, " \t\n\\");
		seq_putc(out, '\n');
	}
	seq_printf(out, "lost=%lu functions=%u\n", taken - index + missed, functions);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(pinpoint_uprobes);

const struct file_operations *pinpoint_uprobes_file(void)
{
	return &pinpoint_uprobes_fops;
}

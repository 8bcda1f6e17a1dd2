// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/debug/pinpoint_watch/registrations: one line for each call of
 * register_kprobe() that returned, in the order of return. The last line has the
 * number of calls that did not fit or were missed, and the time of reading.
 *
 * time=123 errno=0 address=0x... offset=0 disabled=0 handler=0x... kprobe=0x... pid=1 symbol=f command=insmod
 * lost=0 now=456
 *
 * Times are nanoseconds of ktime_get_ns() at the call; errno is positive, 0
 * for a kprobe that was registered; address is kp.addr, 0 for a refused one;
 * symbol is "-" for a kprobe that was requested by address; kprobe is the address
 * of the struct kprobe, which is in its owner's data if the owner is a module.
 * On parisc a handler is the address of a descriptor in its owner's memory. Blanks, newlines and
 * backslashes in names are printed in octal.
 */
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/vmalloc.h>

#include "watch.h"

#define PINPOINT_RECORDS 4096
#define PINPOINT_SYMBOL 128

/**
 * struct pinpoint_registration - one call of register_kprobe()
 * @began: when it was called, in nanoseconds
 * @address: kp.addr, 0 for a refused kprobe
 * @handler: the pre-handler or the post-handler; of a kretprobe one of its handlers; or 0
 * @kprobe: the address of the struct kprobe
 * @offset: as the caller requested it
 * @error: what the kernel returned
 * @pid: the caller's process
 * @disabled: the kprobe was registered without being armed
 * @done: the record is complete
 * @command: the caller's name
 * @symbol: as the caller requested it, empty for an address
 */
struct pinpoint_registration {
	u64 began;
	unsigned long address;
	unsigned long handler;
	unsigned long kprobe;
	unsigned int offset;
	int error;
	pid_t pid;
	bool disabled;
	bool done;
	char command[TASK_COMM_LEN];
	char symbol[PINPOINT_SYMBOL];
};

static struct pinpoint_registration *pinpoint_registrations;
static atomic_t pinpoint_taken = ATOMIC_INIT(0);

/**
 * pinpoint_open_records() - allocate the records
 */
int pinpoint_open_records(void)
{
	pinpoint_registrations = vzalloc(PINPOINT_RECORDS * sizeof(*pinpoint_registrations));
	return pinpoint_registrations ? 0 : -ENOMEM;
}

/**
 * pinpoint_close_records() - free the records
 */
void pinpoint_close_records(void)
{
	vfree(pinpoint_registrations);
}

static void pinpoint_copy(char *to, const char *from, size_t size)
{
	size_t index;

	for (index = 0; index + 1 < size && from[index]; index++)
		to[index] = from[index];
	to[index] = '\0';
}
NOKPROBE_SYMBOL(pinpoint_copy);

/**
 * pinpoint_record() - record a call that has returned
 * @kp: the kprobe of the request; its owner still has it
 * @handler: the owner's handler, 0 if it has none
 * @began: when the call began, in nanoseconds
 * @error: what the kernel returned
 */
void pinpoint_record(const struct kprobe *kp, unsigned long handler, u64 began, int error)
{
	unsigned int index = (unsigned int)atomic_inc_return(&pinpoint_taken) - 1;
	struct pinpoint_registration *entry;

	if (index >= PINPOINT_RECORDS)
		return;
	entry = &pinpoint_registrations[index];
	entry->began = began;
	entry->address = error ? 0 : (unsigned long)kp->addr;
	entry->handler = handler;
	entry->kprobe = (unsigned long)kp;
	entry->offset = kp->offset;
	entry->error = error;
	entry->pid = current->pid;
	entry->disabled = kp->flags & KPROBE_FLAG_DISABLED;
	pinpoint_copy(entry->command, current->comm, sizeof(entry->command));
	if (kp->symbol_name)
		pinpoint_copy(entry->symbol, kp->symbol_name, sizeof(entry->symbol));
	smp_store_release(&entry->done, true);
}
NOKPROBE_SYMBOL(pinpoint_record);

static int pinpoint_records_show(struct seq_file *out, void *at)
{
	unsigned int taken = atomic_read(&pinpoint_taken);
	unsigned int index;

	for (index = 0; index < min_t(unsigned int, taken, PINPOINT_RECORDS); index++) {
		const struct pinpoint_registration *entry = &pinpoint_registrations[index];

		if (!smp_load_acquire(&entry->done))
			continue;
		seq_printf(out, "time=%llu errno=%d address=0x%lx offset=%u disabled=%d",
			   entry->began, -entry->error, entry->address, entry->offset, entry->disabled);
		seq_printf(out, " handler=0x%lx kprobe=0x%lx pid=%d symbol=",
			   entry->handler, entry->kprobe, entry->pid);
		seq_escape(out, entry->symbol[0] ? entry->symbol : "-", " \t\n\\");
		seq_puts(out, " command=");
		seq_escape(out, entry->command, " \t\n\\");
		seq_putc(out, '\n');
	}
	seq_printf(out, "lost=%lu now=%llu\n", taken - index + pinpoint_missed_calls(), ktime_get_ns());
	return 0;
}

static int pinpoint_records_open(struct inode *inode, struct file *file)
{
	return single_open(file, pinpoint_records_show, NULL);
}

const struct file_operations pinpoint_records_fops = {
	.open = pinpoint_records_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = single_release,
};

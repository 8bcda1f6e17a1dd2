// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_watch - records every registration of a probe while it is loaded
 *
 * A kretprobe on register_kprobe() records what the caller asked for, by name
 * or by address, and what the kernel returned. perf, BPF, tracefs, systemtap
 * and modules all register through this function, so that a kprobe that came
 * and went between two looks at the kernel's list is recorded too. uprobes.c
 * does the same for uprobes.
 */
#include <linux/debugfs.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "watch.h"

static unsigned int argument;
module_param(argument, uint, 0444);
MODULE_PARM_DESC(argument, "offset in struct pt_regs of a function's first argument, in bytes");

static unsigned int second_argument;
module_param(second_argument, uint, 0444);
MODULE_PARM_DESC(second_argument, "the same of a function's second argument");

static struct dentry *pinpoint_dir;

/* Passed from the entry handler to the return handler. */
struct pinpoint_call {
	struct kprobe *asked;
	u64 began;
};

static int pinpoint_entered(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct pinpoint_call *call = (void *)instance->data;

	call->asked = *(struct kprobe **)((char *)regs + argument);
	call->began = ktime_get_ns();
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_entered);

static int pinpoint_returned(struct kretprobe_instance *instance, struct pt_regs *regs);

static struct kretprobe pinpoint_calls = {
	.kp.symbol_name = "register_kprobe",
	.entry_handler = pinpoint_entered,
	.handler = pinpoint_returned,
	.data_size = sizeof(struct pinpoint_call),
	.maxactive = 32,
};

/*
 * The kprobe of every kretprobe has the kernel's own pre-handler, whose name
 * is not exported. register_kretprobe() has put it into this kretprobe, too.
 * The owner's handlers are in the struct kretprobe around the kprobe.
 */
static unsigned long pinpoint_handler(const struct kprobe *kp)
{
	const struct kretprobe *around = container_of(kp, struct kretprobe, kp);

	if (!kp->pre_handler)
		return (unsigned long)kp->post_handler;
	if (kp->pre_handler != pinpoint_calls.kp.pre_handler)
		return (unsigned long)kp->pre_handler;
	return around->handler ? (unsigned long)around->handler : (unsigned long)around->entry_handler;
}
NOKPROBE_SYMBOL(pinpoint_handler);

static int pinpoint_returned(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct pinpoint_call *call = (void *)instance->data;

	pinpoint_record(call->asked, pinpoint_handler(call->asked), call->began, (int)regs_return_value(regs));
	return 0;
}
NOKPROBE_SYMBOL(pinpoint_returned);

/**
 * pinpoint_missed() - how often a kretprobe was entered and did not record the call
 * @probe: the kretprobe: all its instances were in use, or the CPU was in another probe
 */
unsigned long pinpoint_missed(const struct kretprobe *probe)
{
	return probe->nmissed + probe->kp.nmissed;
}

/**
 * pinpoint_missed_calls() - how many calls of register_kprobe() were not recorded
 */
unsigned long pinpoint_missed_calls(void)
{
	return pinpoint_missed(&pinpoint_calls);
}

static int __init pinpoint_watch_init(void)
{
	int err = pinpoint_open_records();

	if (err)
		return err;
	err = pinpoint_watch_uprobes(argument, second_argument);
	if (err) {
		pinpoint_close_records();
		return err;
	}
	err = register_kretprobe(&pinpoint_calls);
	if (err) {
		pinpoint_forget_uprobes();
		pinpoint_close_records();
		return err;
	}
	pinpoint_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_file("registrations", 0400, pinpoint_dir, NULL, &pinpoint_records_fops);
	debugfs_create_file("uprobes", 0400, pinpoint_dir, NULL, pinpoint_uprobes_file());
	return 0;
}
module_init(pinpoint_watch_init);

static void __exit pinpoint_watch_exit(void)
{
	debugfs_remove_recursive(pinpoint_dir);
	unregister_kretprobe(&pinpoint_calls);
	pinpoint_forget_uprobes();
	pinpoint_close_records();
}
module_exit(pinpoint_watch_exit);

MODULE_DESCRIPTION("every registration of a kprobe or a uprobe, with what was asked for");
MODULE_LICENSE("GPL");

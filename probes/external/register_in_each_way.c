// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_external - registers a kprobe in each way that foreign modules do
 *
 * It reports nothing, so the judge must find its probe without its help.
 *
 * kind=plain    by symbol and offset, in the initializer
 * kind=address  by the address that the kernel gave a kprobe on `symbol`, which
 *               is removed at once
 * kind=fallback by a name that no kernel has, then by `symbol`
 * kind=disabled by symbol and offset, not armed
 * kind=later    by symbol and offset, from a workqueue, one second later
 * kind=return   a kretprobe, by symbol and offset
 * kind=bare     by symbol and offset, without a handler
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/string.h>
#include <linux/workqueue.h>

static char *kind = "plain";
module_param(kind, charp, 0444);
MODULE_PARM_DESC(kind, "how the kprobe is registered");

static char *symbol = "version_proc_show";
module_param(symbol, charp, 0444);
MODULE_PARM_DESC(symbol, "the function to probe, SYM or MOD:SYM");

static unsigned int offset;
module_param(offset, uint, 0444);
MODULE_PARM_DESC(offset, "the offset in it, in bytes");

static int pinpoint_state = -EAGAIN;
static bool pinpoint_returns;

static int pinpoint_hit(struct kprobe *kp, struct pt_regs *regs)
{
	return 0;
}

static struct kprobe pinpoint_kprobe = {
	.pre_handler = pinpoint_hit,
};

static int pinpoint_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	return 0;
}

static struct kretprobe pinpoint_kretprobe = {
	.handler = pinpoint_return,
};

static void pinpoint_register(struct work_struct *work)
{
	pinpoint_kprobe.symbol_name = symbol;
	pinpoint_kprobe.offset = offset;
	pinpoint_state = register_kprobe(&pinpoint_kprobe);
}
static DECLARE_DELAYED_WORK(pinpoint_later, pinpoint_register);

static int pinpoint_by_address(void)
{
	struct kprobe finder = { .symbol_name = symbol, .offset = offset };
	int err = register_kprobe(&finder);

	if (err)
		return err;
	pinpoint_kprobe.addr = finder.addr;
	unregister_kprobe(&finder);
	return register_kprobe(&pinpoint_kprobe);
}

static int __init pinpoint_external_init(void)
{
	if (!strcmp(kind, "later")) {
		schedule_delayed_work(&pinpoint_later, HZ);
		return 0;
	}
	if (!strcmp(kind, "address")) {
		pinpoint_state = pinpoint_by_address();
		return pinpoint_state;
	}
	if (!strcmp(kind, "return")) {
		pinpoint_returns = true;
		pinpoint_kretprobe.kp.symbol_name = symbol;
		pinpoint_kretprobe.kp.offset = offset;
		pinpoint_state = register_kretprobe(&pinpoint_kretprobe);
		return pinpoint_state;
	}
	if (!strcmp(kind, "fallback")) {
		pinpoint_kprobe.symbol_name = "pinpoint_no_such_function";
		if (register_kprobe(&pinpoint_kprobe) != -ENOENT)
			return -EINVAL;
		pinpoint_kprobe.addr = NULL;
	} else if (!strcmp(kind, "disabled")) {
		pinpoint_kprobe.flags = KPROBE_FLAG_DISABLED;
	} else if (!strcmp(kind, "bare")) {
		pinpoint_kprobe.pre_handler = NULL;
	} else if (strcmp(kind, "plain")) {
		return -EINVAL;
	}
	pinpoint_register(NULL);
	return pinpoint_state;
}
module_init(pinpoint_external_init);

static void __exit pinpoint_external_exit(void)
{
	cancel_delayed_work_sync(&pinpoint_later);
	if (pinpoint_state)
		return;
	if (pinpoint_returns)
		unregister_kretprobe(&pinpoint_kretprobe);
	else
		unregister_kprobe(&pinpoint_kprobe);
}
module_exit(pinpoint_external_exit);

MODULE_DESCRIPTION("a kprobe of a module that reports nothing");
MODULE_LICENSE("GPL");

// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_pins - a target with everything that can hold a module
 *
 * A character device, a misc device and a file in debugfs, each with .owner; a
 * congestion control; a symbol that another module needs; a parameter. Its exit
 * can be stopped at the gate "leaving", where the module is GOING.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/uaccess.h>

#include "../pinned/pinned.h"
#include "pinnable_target.h"

static int parameter = 1;
module_param(parameter, int, 0444);
MODULE_PARM_DESC(parameter, "read by the process that holds its file");

static struct dentry *pinpoint_dir;
static int pinpoint_major;

static ssize_t pinpoint_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	static const char text[] = "pinpoint\n";

	return simple_read_from_buffer(buf, count, pos, text, sizeof(text) - 1);
}

static const struct file_operations pinpoint_fops = {
	.owner = THIS_MODULE,
	.read = pinpoint_read,
	.llseek = default_llseek,
};

static struct miscdevice pinpoint_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &pinpoint_fops,
};

/**
 * pinpoint_needed() - the function that pinpoint_depends needs
 */
int pinpoint_needed(int x)
{
	return x + parameter;
}
EXPORT_SYMBOL_GPL(pinpoint_needed);

/*
 * BPF attaches to this function. Its BTF, "void pinpoint_traced(void)", depends on
 * the number of types in vmlinux. So the harness writes it into the section below
 * and renames that to .BTF (harness/pinning/holds/btf_encoder.py), because pahole makes none for a
 * module that is built without vmlinux.
 */
noinline void pinpoint_traced(void);
noinline void pinpoint_traced(void)
{
	barrier();
}

/*
 * The end of the text, with an odd number of bytes on x86, which any module may
 * have. Zeros follow (target/nops_against_optimizer_overread.c,
 * cases/test_last_function.py).
 */
asm(".pushsection .text.pinpoint_last, \"ax\"\n"
    ".balign 16\n"
    ".rept 15\n"
    "nop\n"
    ".endr\n"
    ".popsection\n");

static const char pinpoint_btf[64] __used __section(".pinpoint_btf") = "BTF";

static int pinpoint_register_devices(void)
{
	int error;

	pinpoint_major = register_chrdev(0, KBUILD_MODNAME, &pinpoint_fops);
	if (pinpoint_major < 0)
		return pinpoint_major;
	error = misc_register(&pinpoint_misc);
	if (error)
		unregister_chrdev(pinpoint_major, KBUILD_MODNAME);
	return error;
}

static void pinpoint_unregister_devices(void)
{
	misc_deregister(&pinpoint_misc);
	unregister_chrdev(pinpoint_major, KBUILD_MODNAME);
}

static int __init pinpoint_pins_init(void)
{
	int error;

	error = pinpoint_register_devices();
	if (error)
		return error;
	error = pinpoint_register_tcp();
	if (error) {
		pinpoint_unregister_devices();
		return error;
	}
	pinpoint_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_file("file", 0400, pinpoint_dir, NULL, &pinpoint_fops);
	return 0;
}
module_init(pinpoint_pins_init);

static void __exit pinpoint_pins_exit(void)
{
	pinpoint_gate("leaving");
	debugfs_remove_recursive(pinpoint_dir);
	pinpoint_unregister_tcp();
	pinpoint_unregister_devices();
}
module_exit(pinpoint_pins_exit);

MODULE_DESCRIPTION("Everything that may hold a module");
MODULE_LICENSE("GPL");

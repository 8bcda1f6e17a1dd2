/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A runner for the kernel's lib/test_kprobes.c on kernels without CONFIG_KUNIT. It has the part of KUnit's interface that
 * this file uses, and prints KTAP as KUnit does. Each test runs in the initializer of the module; with the parameter
 * `only`, the test of this name runs alone.
 */
#ifndef PINPOINT_KUNIT_TEST_H
#define PINPOINT_KUNIT_TEST_H

#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/string.h>

static char *only = "";
module_param(only, charp, 0);

struct kunit {
	bool failed;
};

struct kunit_case {
	void (*run_case)(struct kunit *test);
	const char *name;
};

struct kunit_suite {
	const char *name;
	int (*init)(struct kunit *test);
	void (*exit)(struct kunit *test);
	struct kunit_case *test_cases;
};

#define KUNIT_CASE(test_name) { .run_case = test_name, .name = #test_name }

#define PINPOINT_KUNIT_CHECK(test, kind, condition, text) \
	({ \
		bool holds = (condition); \
		if (!holds) { \
			(test)->failed = true; \
			pr_info("    # %s: %s FAILED at %s:%d\n", __func__, kind, __FILE__, __LINE__); \
			pr_info("    Expected %s\n", text); \
		} \
		holds; \
	})
#define KUNIT_EXPECT_EQ(test, left, right) \
	PINPOINT_KUNIT_CHECK(test, "EXPECTATION", (left) == (right), #left " == " #right)
#define KUNIT_EXPECT_NE(test, left, right) \
	PINPOINT_KUNIT_CHECK(test, "EXPECTATION", (left) != (right), #left " != " #right)
#define KUNIT_EXPECT_TRUE(test, condition) PINPOINT_KUNIT_CHECK(test, "EXPECTATION", (condition), #condition)
#define KUNIT_EXPECT_FALSE(test, condition) PINPOINT_KUNIT_CHECK(test, "EXPECTATION", !(condition), "not " #condition)
/* As in KUnit, a test ends at an assertion that fails. Only functions that return nothing use these. */
#define KUNIT_ASSERT_EQ(test, left, right) \
	do { \
		if (!PINPOINT_KUNIT_CHECK(test, "ASSERTION", (left) == (right), #left " == " #right)) \
			return; \
	} while (0)
#define KUNIT_ASSERT_NE(test, left, right) \
	do { \
		if (!PINPOINT_KUNIT_CHECK(test, "ASSERTION", (left) != (right), #left " != " #right)) \
			return; \
	} while (0)

static inline bool pinpoint_kunit_runs(const struct kunit_case *test_case)
{
	return !*only || !strcmp(only, test_case->name);
}

static inline int pinpoint_kunit_run(struct kunit_suite *suite)
{
	struct kunit_case *each;
	int number = 0, planned = 0;

	for (each = suite->test_cases; each->run_case; each++)
		planned += pinpoint_kunit_runs(each);
	pr_info("    KTAP version 1\n");
	pr_info("    # Subtest: %s\n", suite->name);
	pr_info("    1..%d\n", planned);
	for (each = suite->test_cases; each->run_case; each++) {
		struct kunit test = { .failed = false };

		if (!pinpoint_kunit_runs(each))
			continue;
		if (suite->init && suite->init(&test))
			test.failed = true;
		else
			each->run_case(&test);
		if (suite->exit)
			suite->exit(&test);
		pr_info("    %s %d %s\n", test.failed ? "not ok" : "ok", ++number, each->name);
	}
	return 0;
}

#define kunit_test_suites(suite) \
	static int __init pinpoint_kunit_init(void) \
	{ \
		return pinpoint_kunit_run(suite); \
	} \
	static void __exit pinpoint_kunit_exit(void) \
	{ \
	} \
	module_init(pinpoint_kunit_init); \
	module_exit(pinpoint_kunit_exit)
#define kunit_test_suite(suite) kunit_test_suites(&(suite))

#endif

// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_loader - loads a precompiled probe module safely while other modules
 * are loaded and removed. Single-threaded, statically linked, no helpers.
 *
 *	pinpoint_loader [OPTION...] IMAGE [PARAMETER=VALUE...]
 *
 *	-t MODULE		a target: its handle goes to the probe
 *	-s MODULE:SECTION	a section whose address the probe needs
 *	-g STEP			stop before this step; repeat for more, or "all"
 *	-n NAME			the probe's name, if it is not the file's name
 *	-m			init_module(2), from memory, not finit_module(2)
 *	-w			hold the tokens until the probe is removed
 *	-u UID			become this user first
 *	-x MUTANT		closes-early, skips-re-read, swaps-handles, wrong-errno:
 *				wrong on purpose; betrayed, accompanied: by a
 *				second task
 *
 * Steps: open, read, look, image, load, reread, undo, hold, close. docs/pinning.md
 * has their actions, their output and the exit status when one fails.
 */
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe_module_parameters.h"
#include "step_output_and_gates.h"
#include "module_load_and_removal.h"
#include "second_task_closes_section_files.h"
#include "open_section_files.h"

struct plan {
	const char *name;
	int in_memory;
	int until_removed;
	int closes_early;
	int skips_reread;
	int accompanied;
	int betrayed;
};

static void usage(const char *what)
{
	fprintf(stderr, "pinpoint_loader: %s\n", what);
	exit(STATUS_USAGE);
}

static void add_section(char *words)
{
	char *section = strchr(words, ':');

	if (!section)
		usage("-s wants MODULE:SECTION");
	*section++ = '\0';
	add_token(words, section);
}

static void become(const char *user)
{
	uid_t uid = strtoul(user, NULL, 10);

	if (setgid(uid) || setuid(uid))
		fail(STATUS_BEGIN, "begin", "", errno);
}

static void break_on_purpose(struct plan *plan, const char *mutant)
{
	if (!strcmp(mutant, "closes-early"))
		plan->closes_early = 1;
	else if (!strcmp(mutant, "skips-re-read"))
		plan->skips_reread = 1;
	else if (!strcmp(mutant, "swaps-handles"))
		swap_handles();
	else if (!strcmp(mutant, "wrong-errno"))
		print_wrong_errnos();
	else if (!strcmp(mutant, "accompanied"))
		plan->accompanied = 1;
	else if (!strcmp(mutant, "betrayed"))
		plan->accompanied = plan->betrayed = 1;
	else
		usage("unknown mutant");
}

static void take_option(struct plan *plan, int option)
{
	switch (option) {
	case 't': add_token(optarg, HANDLE_SECTION); break;
	case 's': add_section(optarg); break;
	case 'g': add_gate(optarg); break;
	case 'n': plan->name = optarg; break;
	case 'm': plan->in_memory = 1; break;
	case 'w': plan->until_removed = 1; break;
	case 'u': become(optarg); break;
	case 'x': break_on_purpose(plan, optarg); break;
	default: exit(STATUS_USAGE);
	}
}

/* The kernel's name for the module in a file: the file's name without .ko. */
static const char *name_of(const char *path)
{
	char *name = strdup(path);
	char *suffix;

	name = basename(name);
	suffix = strstr(name, ".ko");
	if (suffix)
		*suffix = '\0';
	return name;
}

/*
 * A probe that was loaded for an instance that is gone must be removed, although
 * its initializer succeeded: the next instance can have the same name, address
 * and build-id.
 */
static void undo(const char *name)
{
	int error;

	gate("undo", name);
	error = delete_probe(name, 0);
	if (error)
		fail(STATUS_UNDO, "undo", name, error);
	did("undo", name, "%s", "");
}

static void reread_tokens(const char *name)
{
	struct token *token;
	int error;

	for (token = tokens; token < tokens + token_count; token++) {
		gate("reread", token->subject);
		error = token_error(token);
		if (!error) {
			did("reread", token->subject, "address=0x%lx", token->address);
			continue;
		}
		undo(name);
		fail(error == ENODEV || error == ESTALE ? STATUS_STALE : STATUS_REREAD,
		     "reread", token->subject, error);
	}
}

static void hold(const struct plan *plan)
{
	gate("hold", plan->name);
	if (plan->until_removed)
		await_removal(plan->name);
	did("hold", plan->name, "removed=%d", plan->until_removed);
}

int main(int argc, char **argv)
{
	struct plan plan = { 0 };
	int option;

	while ((option = getopt(argc, argv, "t:s:g:n:mwu:x:")) != -1)
		take_option(&plan, option);
	if (optind == argc)
		usage("no image");
	if (!plan.name)
		plan.name = name_of(argv[optind]);
	did("begin", plan.name, "pid=%d", getpid());
	if (plan.until_removed)
		watch_removals();
	open_tokens();
	read_tokens();
	look_at_targets();
	if (plan.closes_early)
		quietly_close_tokens();
	open_image(argv[optind], plan.in_memory);
	if (plan.accompanied)
		start_second(plan.betrayed);
	load_image(plan.name, probe_parameters(argv + optind + 1));
	if (!plan.skips_reread)
		reread_tokens(plan.name);
	hold(&plan);
	close_tokens();
	return STATUS_DONE;
}

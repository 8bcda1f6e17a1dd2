// SPDX-License-Identifier: GPL-2.0
/* Opening, reading, reading again and closing of tokens. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "step_output_and_gates.h"
#include "open_section_files.h"

struct token tokens[MOST_TOKENS];
unsigned int token_count;

void add_token(const char *module, const char *section)
{
	struct token *token = &tokens[token_count];

	if (token_count == MOST_TOKENS) {
		fprintf(stderr, "more than %d targets and sections\n", MOST_TOKENS);
		exit(STATUS_USAGE);
	}
	token->module = module;
	token->section = section;
	token->fd = -1;
	snprintf(token->subject, sizeof(token->subject), "%s/%s", module, section);
	token_count++;
}

int is_handle(const struct token *token)
{
	return !strcmp(token->section, HANDLE_SECTION);
}

static int open_section(const char *module, const char *section)
{
	char path[256];

	snprintf(path, sizeof(path), "/sys/module/%s/sections/%s", module, section);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* One read of the whole: a second one gives EINVAL (module_sect_read(), 5.8 and later). */
static int read_address(int fd, unsigned long *address)
{
	char text[64];
	ssize_t length = pread(fd, text, sizeof(text) - 1, 0);

	if (length < 0)
		return errno;
	text[length] = '\0';
	*address = strtoul(text, NULL, 16);
	return 0;
}

void open_tokens(void)
{
	struct token *token;

	for (token = tokens; token < tokens + token_count; token++) {
		gate("open", token->subject);
		token->fd = open_section(token->module, token->section);
		if (token->fd < 0)
			fail(STATUS_OPEN, "open", token->subject, errno);
		did("open", token->subject, "fd=%d", token->fd);
	}
}

/* With kptr_restrict every address reads as zero, which is no module's address. */
void read_tokens(void)
{
	struct token *token;
	int error;

	for (token = tokens; token < tokens + token_count; token++) {
		gate("read", token->subject);
		error = read_address(token->fd, &token->address);
		if (error)
			fail(STATUS_READ, "read", token->subject, error);
		if (!token->address)
			fail(STATUS_ZERO, "read", token->subject, EACCES);
		did("read", token->subject, "address=0x%lx", token->address);
	}
}

/**
 * token_error() - check that a token still belongs to the same instance
 * @token: open and read; a closed one (only mutants close early) is looked up by
 *	its name, which may belong to another instance now
 *
 * Return: 0, ENODEV for an instance that is gone, ESTALE for another address, or
 * another errno of the kernel.
 */
int token_error(struct token *token)
{
	unsigned long address;
	int error;

	if (token->fd < 0)
		error = read_section(token->module, token->section, &address);
	else
		error = read_address(token->fd, &address);
	if (error)
		return error;
	return address == token->address ? 0 : ESTALE;
}

void quietly_close_tokens(void)
{
	struct token *token;

	for (token = tokens; token < tokens + token_count; token++) {
		if (token->fd >= 0)
			close(token->fd);
		token->fd = -1;
	}
}

void close_tokens(void)
{
	gate("close", "");
	quietly_close_tokens();
	did("close", "", "tokens=%u", token_count);
}

/**
 * read_section() - read the address of a section and close its file
 *
 * Return: 0 or an errno.
 */
int read_section(const char *module, const char *section, unsigned long *address)
{
	int fd = open_section(module, section);
	int error;

	if (fd < 0)
		return errno;
	error = read_address(fd, address);
	close(fd);
	return error;
}

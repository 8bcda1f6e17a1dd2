/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tokens: open sysfs files of section addresses, each of which belongs to one
 * instance of a module. Once the instance is gone, a read returns ENODEV, even if
 * another module has the same name and address then
 * (kernfs_get_active(), fs/kernfs/dir.c, 6.1).
 */
#ifndef PINPOINT_OPEN_SECTION_FILES_H
#define PINPOINT_OPEN_SECTION_FILES_H

#define HANDLE_SECTION	".gnu.linkonce.this_module"
#define MOST_TOKENS	256

/**
 * struct token - one section of one module
 * @module: the module's name
 * @section: HANDLE_SECTION for the module's struct module itself
 * @subject: MODULE/SECTION, as it is printed
 * @fd: the open file, -1 for none
 * @address: the address that was read before the load
 */
struct token {
	const char *module;
	const char *section;
	char subject[160];
	int fd;
	unsigned long address;
};

extern struct token tokens[MOST_TOKENS];
extern unsigned int token_count;

void add_token(const char *module, const char *section);
int is_handle(const struct token *token);
void open_tokens(void);
void read_tokens(void);
int token_error(struct token *token);
void close_tokens(void);
void quietly_close_tokens(void);
int read_section(const char *module, const char *section, unsigned long *address);

#endif

"""Code in an ELF file: instructions, functions, line tables, patch tables. No guest is needed."""

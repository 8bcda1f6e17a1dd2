"""What an ELF file says about code: instructions, functions, line tables, patch tables. No guest is needed."""

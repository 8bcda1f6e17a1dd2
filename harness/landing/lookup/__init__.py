"""Names and addresses: kallsyms, data symbols, and conversions between them."""

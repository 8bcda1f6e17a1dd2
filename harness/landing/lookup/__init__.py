"""Look-up of names and addresses: kallsyms, data symbols, and conversions between names and addresses."""

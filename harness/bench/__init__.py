"""How fast we are, beside others and beside what cannot be less: measured side by side, in one run."""

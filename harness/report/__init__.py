"""Results, figures and reports of a run, and the board that is shown while it runs."""

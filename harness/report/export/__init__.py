"""Results of a run in formats that other tools read: KTAP, JUnit, KCIDB, JSON and Markdown."""

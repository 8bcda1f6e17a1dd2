"""The report for people, `report.html`: one file without network access, made from a run's records."""

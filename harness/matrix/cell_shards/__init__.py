"""Cell shards: parts of a run, each in a child process that sends pytest's reports to the controller."""

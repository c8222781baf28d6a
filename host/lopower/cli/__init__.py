"""The command line: one file per group of commands. Commands parse and print; the daemon acts."""

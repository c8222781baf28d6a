"""`lopower bench`, which the proxy does not import: an entry point of the group `lopower.commands`."""

"""The commands that flashing adds to `lopower`, as entry points of the group lopower.commands."""

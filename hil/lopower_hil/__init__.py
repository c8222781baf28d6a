"""Hardware-in-the-loop means for lopower: the virtual device."""

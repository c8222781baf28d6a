"""The process around the cores: settings, sockets, the control API, start and end."""

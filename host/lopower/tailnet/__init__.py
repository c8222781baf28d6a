"""The tailnet side of the proxy: one small interface, and the drivers behind it."""

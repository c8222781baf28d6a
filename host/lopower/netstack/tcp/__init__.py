"""TCP (RFC 9293) for the flows of WireGuard devices; see docs/architecture.md for its seams."""

"""`make demo`: everything a user gets, on loopback, step by step."""

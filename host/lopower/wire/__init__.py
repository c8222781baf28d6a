"""Wire formats and the batch types that pass between layers; no behaviour, no I/O."""

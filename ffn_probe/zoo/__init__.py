"""Every activation, gate and norm of the field, as functions with a source (needs torch)."""

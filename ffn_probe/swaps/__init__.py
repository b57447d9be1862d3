"""Replace norms, activations, gating, dtypes and weights in place, and undo it bit for bit."""

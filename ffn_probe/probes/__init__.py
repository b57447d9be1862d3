"""Probes: attach to a model, watch its FFNs, record a run (needs torch)."""

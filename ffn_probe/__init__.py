"""Telemetry and drift diagnostics for the feed-forward blocks of PyTorch transformers."""

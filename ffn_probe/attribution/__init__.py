"""What made an output drift, from numbers alone: shares, intervals, theory. No torch."""

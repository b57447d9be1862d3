"""Run two models on the same inputs and explain the difference."""

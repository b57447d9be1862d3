"""The dashboard: look at the runs of a folder and compare two of them, on this machine.

`ffn-probe dashboard RUNS` starts it. It reads runs, imports no torch, asks no other machine
for anything, and keeps all of its state in the URL.
"""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""The names of this machine that no other can reach it by."""

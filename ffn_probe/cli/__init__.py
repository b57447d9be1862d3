"""The command line: `ffn-probe scan | record | show | compare | report | dashboard | demo`.

Exit codes: 0 done and no drift, 1 drift, 2 an error (said in one message, no traceback),
130 interrupted.
"""

from ffn_probe.cli.app import app, main

__all__ = ["app", "main"]

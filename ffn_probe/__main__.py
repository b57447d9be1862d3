"""`python -m ffn_probe` is `ffn-probe`."""

from ffn_probe.cli import main

main()

"""``python -m raysim.cli``."""

from raysim.cli import main

main()

"""`python -m tightwire.cli`: the same command where the script is not on the PATH."""

from tightwire.cli import main

main()

"""`python -m builder` is `sandbox-build`."""

from builder.cli import main

main()

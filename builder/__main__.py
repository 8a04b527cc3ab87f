"""`python -m builder` is `sandbox-build`."""

from builder.main import main

main()

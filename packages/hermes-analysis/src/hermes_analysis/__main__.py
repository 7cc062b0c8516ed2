"""`python -m hermes_analysis`: the commands without the `hermes` executable."""

from hermes_analysis.cli import main

main()

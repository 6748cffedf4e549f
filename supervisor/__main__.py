"""`python -m supervisor`, the same as `supervisor`."""

from supervisor.cli.main import main

main()

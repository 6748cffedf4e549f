"""`python -m supervisor`, the same as `supervisor`."""

from supervisor.cli.begin import main

main()

"""Where the command line begins: what is typed, before anything of it has been imported.

Runs as whoever typed it. A Ctrl-C that comes while the first modules are imported ends the process by the signal,
as it ends any program that has not begun: nothing is there yet that would have to be taken down, and nobody yet who
would catch what Python makes of it.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Import the command line and run it; from then on it answers to Ctrl-C itself."""
    # ignored, as by a shell for what it starts in the background, it stays ignored
    caught = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if caught:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from supervisor.cli import main as typed

    typed.main(caught=caught)

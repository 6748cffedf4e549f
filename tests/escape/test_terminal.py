"""The terminal of whoever starts a sandbox: nothing is typed into it, only text and colours go to it.

A terminal acts on what is written to it: it sets the clipboard, and answers questions by typing. So its own output
is as good as its keyboard to a program that may write to it.
"""

from __future__ import annotations

import os
import pty
import re

import pytest

from tests.escape.arena import PYTHON, Arena

PUSH = r"""
import fcntl, os, sys
done = []
for name, code, value in (("TIOCSTI", 0x5412, b"x"), ("TIOCSTI with high bits", 0x7FFF_FFFF_0000_5412, b"x"),
                          ("TIOCSCTTY", 0x540E, 0), ("TIOCSETD", 0x5423, b"\0\0\0\0")):
    for fd in (0, 1, 2):
        try:
            if code > 0xFFFFFFFF:
                import ctypes
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.syscall(16, ctypes.c_long(fd), ctypes.c_ulong(code), value):
                    continue
            else:
                fcntl.ioctl(fd, code, value)
            done.append(name)
        except (OSError, ValueError):
            pass
try:
    done.append("/dev/tty as " + str(os.open("/dev/tty", os.O_RDWR)))
except OSError:
    pass
os.write(1, ("PUSHED " + repr(done) + "\n").encode())
"""
# OSC 52 fills the clipboard; the others make a terminal type an answer: a title that was set before, a setting,
# the place of the cursor, its name
SPEAK = r"""
import os
sequences = (b"\x1b]0;reboot\x07\x1b[21t", b"\x1b]52;c;cmVib290\x07", b"\x1bP$qm\x1b\\", b"\x1b[6n", b"\x05")
for said in (*sequences, b"\xc2\x9b6n"):
    for fd in (1, 2):
        for at in range(len(said)):
            os.write(fd, said[at:at + 1])
os.write(1, b"\x1b[31mred\x1b[0m\n")
"""


def on_a_terminal(arena: Arena, mode: str, argv: list[str]) -> str:
    """Run with a terminal as standard input, output, error and controlling terminal; what was on the screen."""
    plot = arena.plots[mode]
    child, leader = pty.fork()
    if child == 0:
        try:
            os.chdir(plot.home / "project")
            if mode != "root":
                os.setgroups([])
                os.setresgid(plot.gid, plot.gid, plot.gid)
                os.setresuid(plot.uid, plot.uid, plot.uid)
            os.execve(argv[0], argv, arena.environment(mode) | {"TERM": "dumb"})
        finally:
            os._exit(127)
    screen = b""
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:
            break
        if not chunk:
            break
        screen += chunk
    os.waitpid(child, 0)
    os.close(leader)
    return screen.decode(errors="replace")


def acts(screen: str) -> list[str]:
    """What of the screen's bytes a terminal would act on; a line feed and colours are what programs may."""
    return re.findall("\x1b(?!\\[[0-9;]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]", screen)


def test_nothing_is_typed_into_the_terminal(arena: Arena, profile: str, mode: str) -> None:
    """TIOCSTI puts bytes into the caller's keyboard buffer: a command for the shell after this one."""
    argv = [*PYTHON, "-c", PUSH]
    assert "TIOCSTI" in on_a_terminal(arena, mode, argv)
    screen = on_a_terminal(arena, mode, arena.command(profile, mode, argv))
    assert "PUSHED []" in screen, screen


def test_nothing_is_said_to_the_terminal_but_text_and_colours(arena: Arena, profile: str, mode: str) -> None:
    argv = [*PYTHON, "-c", SPEAK]
    assert len(acts(on_a_terminal(arena, mode, argv))) >= 20
    screen = on_a_terminal(arena, mode, arena.command(profile, mode, argv))
    assert acts(screen) == [], screen
    assert "\x1b[31mred\x1b[0m" in screen
    assert r"\x1b]52;c;" in screen


@pytest.mark.parametrize("mode", ["root", "user"])
def test_a_server_s_standard_error_says_nothing_to_the_terminal(arena: Arena, mode: str) -> None:
    """`run`, which relays standard output and passes standard error on."""
    argv = arena.command("none", mode, [*PYTHON, "-c", SPEAK])
    argv[argv.index("exec")] = "run"
    screen = on_a_terminal(arena, mode, argv)
    assert acts(screen) == [], screen
    assert r"\x1b]52;c;" in screen


@pytest.mark.parametrize("action", ["exec", "explain"])
def test_the_name_of_a_folder_says_nothing_to_the_terminal(arena: Arena, mode: str, action: str) -> None:
    """Whose repository it is has named it, and whoever looks before it is used looks at it with `explain`."""
    plot = arena.plots[mode]
    folder = plot.scope / "named\x1b[2J\x1b]52;c;cmVib290\x07\nsupervisor: forged\u202e"
    plot.reset()
    folder.mkdir()
    os.chown(folder, plot.uid, plot.gid)
    argv = arena.command("fs-scoped", mode, ["/usr/bin/true"], options=["--param", f"scope={folder}"])
    argv[argv.index("exec")] = action
    screen = on_a_terminal(arena, mode, argv)
    assert r"named\x1b[2J" in screen
    assert acts(screen) == [], screen
    assert not re.search("^(supervisor: )*forged", screen, re.MULTILINE), screen
    assert "\u202e" not in screen


@pytest.mark.parametrize("mode", ["root", "user"])
def test_the_text_of_a_profile_says_nothing_to_the_terminal(arena: Arena, mode: str) -> None:
    path = arena.base / "strange.toml"
    path.write_text('# \x9b2J\u202e\tand a tab\nprofile = 1\nname = "strange"\nextends = "none"\nsummary = "s"\n')
    path.chmod(0o644)
    argv = [*arena.commands[mode], "profile", "show", str(path)]
    screen = on_a_terminal(arena, mode, argv)
    assert 'name = "strange"' in screen
    assert acts(screen) == [], screen
    assert "\u202e" not in screen

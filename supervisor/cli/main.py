"""The command line. Imports happen inside the commands, because start-up time is part of the product.

Exit status: the command's own for `run` and `exec`; otherwise 0 ok, 1 failed, 2 usage, 3 refused by policy,
4 this host cannot enforce it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import NoReturn

from supervisor.errors import ConfigError, SupervisorError

VERSION = "0.1.0"
_EPILOG = """exit status: the command's own for run and exec; otherwise
  0 ok   1 failed   2 usage   3 refused by policy   4 this host cannot enforce it"""


def _sandbox_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", metavar="NAME", help="a shipped profile, or the path of one of your own")
    parser.add_argument("--param", metavar="K=V", action="append", default=[], help="fill a param of the profile")
    parser.add_argument(
        "--ro", metavar="PATH[:DST]", action="append", default=[], help="show a file or folder, read-only"
    )
    parser.add_argument("--rw", metavar="PATH[:DST]", action="append", default=[], help="... and writable")
    parser.add_argument(
        "--env",
        metavar="K[=V]",
        action="append",
        default=[],
        help="set a variable, or pass on the caller's; nothing else of the environment goes in",
    )
    parser.add_argument(
        "--allow",
        metavar="HOST:PORT",
        action="append",
        default=[],
        help="let it reach a host; *.HOST:PORT, http:HOST:PORT, tcp:HOST:PORT and ADDRESS:PORT as in profiles",
    )
    parser.add_argument(
        "--accept-missing",
        metavar="NAME",
        action="append",
        default=[],
        help="run although this host lacks the named layer (comma-separated); it is printed and recorded",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no account on standard error")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 86400")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="supervisor",
        description="A hardened runtime for MCP servers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"supervisor {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run an MCP server on this terminal's stdio")
    run.add_argument("server", nargs="?", help="a server registered with the host's daemon")
    run.epilog = "after --: the server's command; without it, the profile's own server"
    exec_ = commands.add_parser("exec", help="run any command in a sandbox, as in a CI job")
    exec_.epilog = "after --: the command"
    call = commands.add_parser("call", help="call one tool and print the answer")
    call.add_argument("tool", nargs="?", help="the tool's name; without it, the tools are listed")
    call.add_argument("arguments", nargs="*", metavar="K=V", help="arguments; K:=JSON for anything but text")
    call.add_argument("--server", metavar="NAME", help="a server registered with the host's daemon")
    call.add_argument("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="for each answer")
    call.add_argument("--json", action="store_true", help="print the whole result as JSON")
    explain = commands.add_parser("explain", help="show what would run: grants, steps, and why; starts nothing")
    explain.add_argument("--json", action="store_true", help="print the resolved spec as JSON")
    explain.add_argument("--diff", metavar="NAME", help="only what the profile grants that NAME does not, and back")
    for each in (run, exec_, call, explain):
        _sandbox_options(each)
    for each in (run, call):
        each.add_argument("--runtime-dir", metavar="DIR", help="where the daemon's sockets are")

    daemon = commands.add_parser("daemon", help="serve registered servers to this host's users")
    daemon.add_argument("--config", required=True, metavar="FILE", help="servers.toml")
    daemon.add_argument("--runtime-dir", metavar="DIR", help="where to put the sockets")
    listing = commands.add_parser("list", help="the servers that the daemon would run for you")
    admin = commands.add_parser("admin", help="the operator's requests to the daemon")
    admin.add_argument("request", choices=["inspect", "kill", "reload", "drain"])
    admin.add_argument("session", nargs="?", type=int, help="for kill")
    for each in (listing, admin):
        each.add_argument("--runtime-dir", metavar="DIR", help="where the daemon's sockets are")
        each.add_argument("--json", action="store_true", help="print JSON")
    selftest = commands.add_parser("selftest", help="prove from inside that a profile holds on this host")
    _sandbox_options(selftest)
    selftest.add_argument("--json", action="store_true", help="print JSON")
    check = commands.add_parser("check", help="what this host can and cannot enforce")
    check.add_argument("--json", action="store_true", help="print JSON")
    commands.add_parser("image", help="images of servers: add, list, show, verify, sign, build, rm, gc")
    profile = commands.add_parser("profile", help="the profiles there are")
    profile.add_argument("action", choices=["list", "show", "diff"])
    profile.add_argument("name", nargs="?", help="for show and diff")
    profile.add_argument("other", nargs="?", help="for diff: the one that may grant more")
    profile.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _start(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import entry, personal

    server = getattr(options, "server", None)
    if server is not None and (tail or options.profile):
        raise ConfigError(f'"{server}" is a registered server: --profile and a command do not go with it')
    if options.command == "exec" and not tail:
        raise ConfigError("exec: name a command after --, as in: supervisor exec --profile ci-runner -- make test")
    tree = personal.start(entry.build(options, tail)) if server is None else None
    # only now, while planner and monitor get ready
    from supervisor.cli import start

    table = {"run": start.run, "exec": start.execute, "call": start.call}
    status = _flushed(table[options.command](options, tree))
    # without the interpreter's own clean-up: somebody waits for this
    os._exit(status)


def _inspect(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import inspect

    table = {"explain": inspect.explain, "profile": inspect.profile, "check": inspect.check}
    return table[options.command](options, tail)


def _selftest(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import selftest

    return selftest.run(options, tail)


def _host(options: argparse.Namespace, _tail: list[str]) -> int:
    from supervisor.cli import host

    table = {"daemon": host.daemon, "list": host.listing, "admin": host.admin}
    return table[options.command](options)


def _image(arguments: list[str]) -> int:
    from supervisor.cli import image

    return image.main(arguments)


_COMMANDS = {
    **dict.fromkeys(("run", "exec", "call"), _start),
    **dict.fromkeys(("explain", "profile", "check"), _inspect),
    **dict.fromkeys(("daemon", "list", "admin"), _host),
    "selftest": _selftest,
}
_WITH_COMMAND = ("run", "exec", "call", "explain")


def main() -> None:
    """Parse, run, exit with the documented status; an error of ours is one message."""
    arguments = sys.argv[1:]
    tail: list[str] = []
    if "--" in arguments:
        where = arguments.index("--")
        arguments, tail = arguments[:where], arguments[where + 1 :]
        if not tail:
            _end("supervisor: nothing follows --", 2)
    try:
        _standard_streams()
        if arguments[:1] == ["image"] and not tail:
            sys.exit(_flushed(_image(arguments[1:])))
        options = _parser().parse_args(arguments)
        if tail and options.command not in _WITH_COMMAND:
            raise ConfigError(f"{options.command} takes no command after --")
        sys.exit(_flushed(_COMMANDS[options.command](options, tail)))
    except SupervisorError as error:
        _end(f"supervisor: {error}", error.exit_status)
    except KeyboardInterrupt:
        _end("", 130)
    except OSError as error:
        # what is still in the buffer would be tried again at exit
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        name = f"{error.filename}: " if error.filename else ""
        _end("" if isinstance(error, BrokenPipeError) else f"supervisor: {name}{error.strerror or error}", 1)


def _flushed(status: int) -> int:
    sys.stdout.flush()
    return status


def _standard_streams() -> None:
    """Put /dev/null where the caller closed a standard stream, or a pipe of ours would get its number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until exit
        # a server may say what this locale, or UTF-8, cannot
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)


def _end(message: str, status: int) -> NoReturn:
    if message:
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr, flush=True)
    sys.exit(status)

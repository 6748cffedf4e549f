"""The command line. Imports happen inside the commands, because start-up time is part of the product.

Exit status: the command's own for `run` and `exec`; otherwise 0 ok, 1 failed, 2 usage, 3 refused by policy,
4 this host cannot enforce it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from supervisor.errors import ConfigError, SupervisorError

if TYPE_CHECKING:
    import argparse


def _start(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import entry, personal

    server = getattr(options, "server", None)
    if server is not None and (tail or options.profile):
        raise ConfigError(f'"{server}" is a registered server: --profile and a command do not go with it')
    if server is not None and options.command == "run":
        from supervisor.cli import gateway

        os._exit(_flushed(gateway.run(options)))
    if server is not None:
        entry.reachable(options)
    tree = personal.start(entry.build(options, tail)) if server is None else None
    # only now, while planner and monitor get ready
    from supervisor.cli import start

    table = {"run": start.run, "call": start.call}
    status = _flushed(table[options.command](options, tree))
    # without the interpreter's own clean-up: somebody waits for this
    os._exit(status)


def _inspect(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import inspect

    if getattr(options, "action", "") == "learn":
        from supervisor.cli import learn

        os._exit(_flushed(learn.learn(options, tail)))
    table = {"explain": inspect.explain, "profile": inspect.profile, "check": inspect.check}
    return table[options.command](options, tail)


def _selftest(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import selftest

    return selftest.run(options, tail)


def _host(options: argparse.Namespace, _tail: list[str]) -> int:
    from supervisor.cli import host

    table = {"daemon": host.daemon, "admin": host.admin}
    return table[options.command](options)


def _gateway(options: argparse.Namespace, _tail: list[str]) -> int:
    from supervisor.cli import gateway

    table = {"serve": gateway.serve, "pin": gateway.pin}
    status = _flushed(table[options.command](options))
    # as in _start: without the interpreter's own clean-up, which confined threads do not survive
    os._exit(status)


def _servers(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import servers

    steer = dict.fromkeys(("start", "stop", "kill"), servers.steer)
    table = {"add": servers.add, "remove": servers.remove, "list": servers.listing} | steer
    return table[options.command](options, tail)


def _approvals(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import approvals

    return {"pending": approvals.pending, "show": approvals.show}.get(options.command, approvals.decide)(
        options, tail
    )


def _watch(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import gateways, watch

    table = {"ps": watch.ps, "logs": gateways.logs}
    return table[options.command](options, tail)


def _token(options: argparse.Namespace, _tail: list[str]) -> int:
    from supervisor.cli import auth

    return auth.token(options)


def _secrets(options: argparse.Namespace, _tail: list[str]) -> int:
    from supervisor.cli import secrets

    return secrets.run(options)


def _clients(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import adopt, release

    return (adopt.adopt if options.command == "adopt" else release.release)(options, tail)


def _discover(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import discover

    return discover.discover(options, tail)


def _why(options: argparse.Namespace, tail: list[str]) -> int:
    from supervisor.cli import why

    return why.why(options, tail)


def _audit(arguments: list[str]) -> int:
    from supervisor.cli import audit

    return audit.main(arguments)


def _policy(arguments: list[str]) -> int:
    from supervisor.cli import policy

    return policy.main(arguments)


def _image(arguments: list[str]) -> int:
    from supervisor.cli import image

    return image.main(arguments)


_COMMANDS = {
    **dict.fromkeys(("adopt", "release"), _clients),
    **dict.fromkeys(("add", "remove", "list", "start", "stop", "kill"), _servers),
    **dict.fromkeys(("pending", "show", "approve", "deny", "revoke"), _approvals),
    **dict.fromkeys(("ps", "logs"), _watch),
    **dict.fromkeys(("serve", "pin"), _gateway),
    **dict.fromkeys(("run", "call"), _start),
    **dict.fromkeys(("explain", "profile", "check"), _inspect),
    **dict.fromkeys(("daemon", "admin"), _host),
    "secrets": _secrets,
    "discover": _discover,
    "why": _why,
    "selftest": _selftest,
    "token": _token,
}


def main(*, caught: bool = False) -> None:
    """Parse, run, exit with the documented status; an error of ours is one message.

    `caught`: Ctrl-C has ended the process until now, and is ours from here on.
    """
    arguments = sys.argv[1:]
    tail: list[str] = []
    if "--" in arguments:
        where = arguments.index("--")
        arguments, tail = arguments[:where], arguments[where + 1 :]
        if not tail:
            _end("supervisor: nothing follows --", 2)
    try:
        if caught:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _standard_streams()
        _ordinary_children()
        _apart(arguments, tail)
        from supervisor.cli.options import WITH_COMMAND, parser, read

        options = read(parser(), arguments)
        if tail and options.command not in WITH_COMMAND and getattr(options, "action", "") != "learn":
            raise ConfigError(f"{options.command} takes no command after --")
        sys.exit(_flushed(_COMMANDS[options.command](options, tail)))
    except SupervisorError as error:
        _end(f"supervisor: {error}", error.exit_status)
    except KeyboardInterrupt:
        _end("", 130)
    except OSError as error:
        # what is still in the buffer would be tried again at exit; no file can be opened any more
        with contextlib.suppress(OSError):
            os.dup2(os.pipe()[1], 1)
        name = f"{error.filename}: " if error.filename else ""
        _end("" if isinstance(error, BrokenPipeError) else f"supervisor: {name}{error.strerror or error}", 1)


def _apart(arguments: list[str], tail: list[str]) -> None:
    """The commands with a parser of their own, and the one that cannot wait for its options; others return."""
    first = arguments[0] if arguments else ""
    if first == "exec":
        _execute(arguments, tail)
    if first == "audit":
        if tail:
            raise ConfigError("audit takes no command after --")
        sys.exit(_flushed(_audit(arguments[1:])))
    if first in ("image", "policy") and not tail:
        sys.exit(_flushed((_image if first == "image" else _policy)(arguments[1:])))


def _execute(arguments: list[str], tail: list[str]) -> NoReturn:
    """`exec`: what it waits for longest gets ready while its options are read."""
    from supervisor.cli import personal

    planner = personal.early(arguments)
    try:
        from supervisor.cli import entry
        from supervisor.cli.options import parser, read

        options = read(parser(), arguments)
        if not tail and not options.image:
            example = "supervisor exec --profile ci-runner -- make test"
            raise ConfigError(f"exec: name a command after --, as in: {example}")
        asked = entry.build(options, tail)
    except BaseException:
        if planner:
            planner.drop()
        raise
    tree = personal.start(asked, planner=planner)
    from supervisor.cli import start

    # without the interpreter's own clean-up: somebody waits for this
    os._exit(_flushed(start.execute(options, tree)))


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


def _ordinary_children() -> None:
    """Of real time nothing is passed on: a limit on processors does not hold for it, nor can it join all groups."""
    policy = os.sched_getscheduler(0)
    if policy in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_getparam(0))
        said = "real-time scheduling is not passed on: limits.cpus does not hold it; what is started runs as usual"
        print(f"supervisor: {said}", file=sys.stderr)


def _end(message: str, status: int) -> NoReturn:
    if message and not message.isprintable():
        # it may quote a stranger
        from supervisor.proxy.pump import told

        message = told(message)
    if message:
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr, flush=True)
    sys.exit(status)

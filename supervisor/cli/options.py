"""The options of every command, a function a group: what a person reads with --help.

Runs as whoever typed it. argparse and nothing else, since every command pays for this.
"""

from __future__ import annotations

import argparse
import itertools

from supervisor.errors import ConfigError

VERSION = "0.1.0"
# those that take the command of a server, or of a job
WITH_COMMAND = ("run", "exec", "call", "explain", "add")
# an empty one of these is told with what there is
_NAMED = ("--profile", "--ro", "--rw")
_EPILOG = """exit status: the command's own for run and exec; otherwise
  0 ok   1 failed   2 usage   3 refused by policy   4 this host cannot enforce it"""


def _sandbox_options(parser: argparse.ArgumentParser, profile: str = "--profile") -> None:
    parser.add_argument(
        profile, dest="profile", metavar="NAME", help="a shipped profile, or the path of one of your own"
    )
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
        "--secret",
        metavar="NAME=SOURCE:WHERE",
        action="append",
        default=[],
        help="a secret from file:PATH, env:NAME, credential:NAME, keyring:SERVICE/USER or command:'PROGRAM WORD', "
        "as a variable; file/NAME=... as /run/secrets/NAME; NAME@HOST=... as a header that the server never sees",
    )
    parser.add_argument(
        "--allow",
        metavar="HOST:PORT",
        action="append",
        default=[],
        help="let it reach a host; *.HOST:PORT, http:HOST:PORT, tcp:HOST:PORT and ADDRESS:PORT as in profiles",
    )
    parser.add_argument("--image", metavar="NAME@DIGEST", help="start it from an image of the store, not from /usr")
    parser.add_argument("--lock", metavar="FILE", help="an images.lock that must list the image")
    parser.add_argument("--store", metavar="DIR", help="where images are, if not in your own place")
    parser.add_argument(
        "--runtime", choices=["auto", "native", "podman", "docker", "gvisor"], help="what makes the sandbox"
    )
    parser.add_argument(
        "--engine", metavar="SOCKET", help="where podman or docker listens, if not in its own place"
    )
    _accept_missing(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no account on standard error")


def _accept_missing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept-missing",
        metavar="NAME",
        action="append",
        default=[],
        help="run although this host lacks the named layer (comma-separated); it is printed and recorded",
    )


def _personal_registry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--personal", action="store_true", help="your own registry, also where the host has a daemon with its own"
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 86400")
    return value


def read(made: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """What was typed. ConfigError names the command with a word that it does not know, and the way to know it."""
    _filled(made, words)
    options, unknown = made.parse_known_args(words)
    if not unknown:
        return options
    names = (getattr(options, "command", ""), getattr(options, "action", ""))
    command = " ".join([made.prog, *(name for name in names if name)])
    hint = ""
    if names[0] in WITH_COMMAND or names[1] == "learn":
        hint = f"; a program and its arguments go after --, as in: {command} ... -- make test"
    told = f"it takes no {unknown[0]!r}; {command} --help shows what it takes"
    raise ConfigError(f"{command.removeprefix('supervisor ')}: {told}{hint}")


def _filled(made: argparse.ArgumentParser, words: list[str]) -> None:
    """No option is empty, as a shell makes it of a variable that is not set: --auth "" would be no --auth."""
    ours = words[: words.index("--")] if "--" in words else words
    for before, word in itertools.pairwise(["", *ours]):
        name = word[:-1] if word.startswith("--") and word.endswith("=") else "" if word else before
        if name.startswith("--") and name not in _NAMED:
            command = f"{made.prog} {words[0]}".removeprefix("supervisor ")
            raise ConfigError(
                f"{command}: {name} is empty: leave it out, or say what it is; is a variable not set?"
            )


def parser() -> argparse.ArgumentParser:
    """All of them."""
    made = argparse.ArgumentParser(
        prog="supervisor",
        description="A hardened runtime for MCP servers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"supervisor {VERSION}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in (_personal, _daemon, _gateway, _registry, _approvals, _clients, _operator, _look):
        group(commands)
    return made


def _personal(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser("run", help="run an MCP server on this terminal's stdio")
    run.add_argument("server", nargs="?", help="a registered server: the daemon's, or your own")
    run.epilog = "after --: the server's command; without it, the profile's own server"
    exec_ = commands.add_parser("exec", help="run any command in a sandbox, as in a CI job")
    exec_.epilog = "after --: the command"
    call = commands.add_parser("call", help="call one tool and print the answer")
    call.add_argument("tool", nargs="?", help="the tool's name; without it, the tools are listed")
    call.add_argument("arguments", nargs="*", metavar="K=V", help="arguments; K:=JSON for anything but text")
    call.add_argument("--server", metavar="NAME", help="a server of the host's daemon")
    call.add_argument("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="for each answer")
    call.add_argument("--json", action="store_true", help="print the whole result as JSON")
    explain = commands.add_parser("explain", help="show what would run: grants, steps, and why; starts nothing")
    explain.add_argument("--json", action="store_true", help="print the resolved spec as JSON")
    explain.add_argument("--diff", metavar="NAME", help="only what the profile grants that NAME does not, and back")
    for each in (run, exec_, call, explain):
        _sandbox_options(each)
    run.add_argument("--config", metavar="FILE", help="servers.toml, for a registered server without a daemon")
    _personal_registry(run)
    for each in (run, call):
        each.add_argument("--runtime-dir", metavar="DIR", help="where the daemon's sockets are")


def _log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log", choices=["text", "json"], default="text", help="the form of standard error")


def _daemon(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    daemon = commands.add_parser("daemon", help="serve registered servers to this host's users")
    daemon.add_argument("--config", required=True, metavar="FILE", help="servers.toml")
    daemon.add_argument("--runtime-dir", metavar="DIR", help="where to put the sockets")
    _log(daemon)


def _gateway(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser("serve", help="one MCP endpoint for all registered servers")
    serve.add_argument(
        "--http",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="HOST:PORT or unix:PATH instead of standard input and output: /mcp, and /servers/NAME/mcp for each",
    )
    serve.add_argument("--auth", metavar="FILE", help="who may use it over HTTP: tokens, an issuer of tokens")
    for name, what in (("host", "NAME"), ("origin", "ORIGIN")):
        serve.add_argument(
            f"--allow-{name}",
            metavar=what,
            action="append",
            default=[],
            help=f"a {name} besides this machine's own",
        )
    serve.add_argument("--traces", action="store_true", help="export traces, to where OTEL_... variables say")
    _log(serve)
    token = commands.add_parser("token", help="make a bearer token for serve --auth")
    token.add_argument("subject", metavar="SUBJECT", help="whose it is: quotas and logs name it")
    token.add_argument("--group", metavar="NAME", action="append", default=[], help="a group of the subject's")
    token.add_argument("--days", type=int, default=90, metavar="N", help="until it expires; 0: never (default 90)")
    token.add_argument("--file", metavar="FILE", help="add it to the file of serve --auth")
    pin = commands.add_parser("pin", help="review what a server lists, and write it down")
    pin.add_argument("name", metavar="NAME", help="a registered server")
    pin.add_argument("-y", "--yes", action="store_true", help="write it without asking")
    pin.add_argument("--json", action="store_true", help="print JSON")
    for each in (serve, pin):
        each.add_argument("--config", metavar="FILE", help="servers.toml, for a tree of its own")
        _personal_registry(each)
        each.add_argument("--runtime-dir", metavar="DIR", help="where the daemon's sockets are")
        each.add_argument("-q", "--quiet", action="store_true", help="no account on standard error")


def _operator(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    admin = commands.add_parser("admin", help="the operator's other requests to the daemon")
    admin.add_argument("request", choices=["inspect", "kill", "reload", "drain"])
    admin.add_argument("session", nargs="?", type=int, help="for kill")
    helps = {
        "start": "let a server that was stopped be started again",
        "stop": "open no more of a server, and end what runs in order",
        "kill": "end every process of a server at once, and stop it",
    }
    steered = [commands.add_parser(name, help=said) for name, said in helps.items()]
    for each in steered:
        each.add_argument("name", metavar="NAME", help="a server of the daemon's")
    ps = commands.add_parser("ps", help="what runs now: state, memory, processor, calls")
    for each in (admin, ps, *steered):
        each.add_argument("--runtime-dir", metavar="DIR", help="where the daemon's sockets are")
        each.add_argument("--json", action="store_true", help="print JSON")
    logs = commands.add_parser("logs", help="what a server has written on its standard error")
    logs.add_argument("name", metavar="NAME", help="a server of a gateway that runs")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as more comes")


def _registry(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    add = commands.add_parser("add", help="register a server")
    add.epilog = "after --: the server's command; without it, the profile's own server"
    add.add_argument("name", metavar="NAME", help="what it is called from now on")
    add.add_argument("--summary", metavar="TEXT", help="a line for whoever lists it")
    add.add_argument(
        "--user",
        metavar="USER",
        action="append",
        default=[],
        help="of a daemon's: who may open it; @GROUP for a group",
    )
    add.add_argument("--proposed", action="store_true", help="as supervisor discover --request NAME has filed it")
    _sandbox_options(add)
    secrets = commands.add_parser("secrets", help="the secrets of registered servers: where from, where to")
    secrets.add_argument(
        "action", choices=["list", "check"], help="check: read each of them once, and say what fails"
    )
    secrets.add_argument("name", nargs="?", metavar="NAME", help="of this server alone")
    remove = commands.add_parser("remove", help="forget a registered server, and what was pinned of it")
    remove.add_argument("name", metavar="NAME")
    listing = commands.add_parser("list", help="the servers that you may use")
    listing.add_argument("--runtime-dir", metavar="DIR", help="where the daemon's sockets are")
    listing.add_argument("--approved", action="store_true", help="what was approved, by whom and until when")
    _personal_registry(listing)
    _discover(discover := commands.add_parser("discover", help="servers that are on this machine, as proposals"))
    for each in (add, remove, listing, secrets, discover):
        each.add_argument("--config", metavar="FILE", help="servers.toml, if not your own")
        each.add_argument("--json", action="store_true", help="print JSON")


def _approvals(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pending = commands.add_parser("pending", help="the servers that have to be approved before they run")
    helps = {
        "show": "what an approval would be of, and what has changed since the last one",
        "approve": "let a server run as it is; whatever changes of it has to be approved again",
        "deny": "do not let it run as it is",
        "revoke": "take an approval back, and end what runs",
    }
    made = {name: commands.add_parser(name, help=said) for name, said in helps.items()}
    for name, each in made.items():
        each.add_argument("number", metavar="NAME" if name == "revoke" else "N", help="as pending shows it")
        if name != "show":
            each.add_argument("--reason", metavar="TEXT", help="why")
    made["approve"].add_argument("--until", metavar="WHEN", help="30d, 12h, or a date")
    for each in (pending, *made.values()):
        each.add_argument("--config", metavar="FILE", help="servers.toml, if not the daemon's or your own")
        each.add_argument("--runtime-dir", metavar="DIR", help="where the daemon's sockets are")
        each.add_argument("--json", action="store_true", help="print JSON")


def _discover(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Lists what is new, changed and gone since last time: containers of docker and podman with labels, files "
        "in the folder discover/ beside the registry, configuration files of MCP clients. Proposals only."
    )
    parser.add_argument(
        "--source",
        metavar="S",
        action="append",
        default=[],
        help="docker, podman, clients, files; docker:SOCKET, podman:SOCKET; a folder or a file (default: all)",
    )
    parser.add_argument(
        "--bound", metavar="PROFILE", default="none", help="the most that labels and files may ask for"
    )
    parser.add_argument("--watch", action="store_true", help="go on, and tell what changes")
    parser.add_argument(
        "--request", metavar="NAME", action="append", default=[], help="file a request for it (all: for each)"
    )


def _clients(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    adopt = commands.add_parser("adopt", help="put the servers of an MCP client's configuration behind supervisor")
    adopt.description = (
        "Registers every server that the client starts itself, with a profile suggested from its command line, and "
        "has the client start it through supervisor under the name that it has. Nothing else in the file changes."
    )
    adopt.epilog = "exit status: 1 when one of the servers stays as it is"
    adopt.add_argument("--gateway", action="store_true", help="one entry for all of them: supervisor serve")
    adopt.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    adopt.add_argument("-y", "--yes", action="store_true", help="do it without asking")
    _accept_missing(adopt)
    release = commands.add_parser("release", help="undo adopt: the configuration as it was")
    release.description = (
        "Puts back what adopt replaced, byte for byte, and forgets the servers that it registered."
    )
    for each in (adopt, release):
        each.add_argument("file", metavar="FILE", help="such as ~/.cursor/mcp.json, .mcp.json or .vscode/mcp.json")
        each.add_argument("--config", metavar="FILE", help="servers.toml, if not your own")
        each.add_argument("--runtime-dir", metavar="DIR", help="where the daemon's sockets are")
        each.add_argument("--json", action="store_true", help="print JSON")


def _look(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    selftest = commands.add_parser("selftest", help="prove from inside that a profile holds on this host")
    _sandbox_options(selftest)
    selftest.add_argument("--json", action="store_true", help="print JSON")
    check = commands.add_parser("check", help="what this host can and cannot enforce")
    check.add_argument("--json", action="store_true", help="print JSON")
    # these have options of their own, which are read there
    commands.add_parser("audit", help="the log of calls: tail, query, show, verify, checkpoint, export")
    commands.add_parser("policy", help="who may do what: check, test, why")
    commands.add_parser("image", help="images of servers: add, list, show, verify, sign, build, rm, gc")
    why = commands.add_parser("why", help="what was denied, and the line that would allow it")
    why.add_argument("name", metavar="CALL|SESSION", help="its id, as supervisor audit query shows it")
    why.add_argument("--folder", metavar="DIR", help="where the audit log is, if not in its usual place")
    why.add_argument("--config", metavar="FILE", help="servers.toml, if not your own")
    why.add_argument("--json", action="store_true", help="print JSON")
    profile = commands.add_parser("profile", help="the profiles there are; learn one from a run")
    actions = profile.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the shipped profiles")
    show = actions.add_parser("show", help="the text of one, the floor first")
    diff = actions.add_parser("diff", help="what one grants that another does not")
    for each in (show, diff):
        each.add_argument("name", nargs="?")
    diff.add_argument("other", nargs="?", help="the one that may grant more")
    for each in (listing, show, diff):
        each.add_argument("--json", action="store_true", help="print JSON")
    _learn(actions.add_parser("learn", help="run a command, watch it, and write the smallest profile it needs"))


def _learn(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Runs a command in the sandbox of a bound, on this terminal's standard streams, and watches it by strace. "
        "Its end is the end of the lesson: the profile is written with the evidence, never wider than the bound."
    )
    parser.epilog = "after --: the command; without it, the bound's own server. Exit status: the command's own"
    _sandbox_options(parser, "--bound")
    parser.add_argument("--output", metavar="FILE", default="learned.toml", help="where to (default: learned.toml)")

"""The syscall groups and their compiler: the format, the size of the lists, and what the program decides."""

from __future__ import annotations

import errno
import struct
from functools import cache
from pathlib import Path

import pyseccomp
import pytest

from supervisor.errors import ConfigError
from supervisor.profile import seccomp

GROUPS = Path(__file__).parents[3] / "profiles" / "syscalls"
SERVER = ("base", "files-read", "files-write", "events", "process", "socketpair", "newer")
NETWORK = (*SERVER, "network")
CI = (*NETWORK, "ci-build", "ci-sockets")

ALLOW = pyseccomp.ALLOW
EPERM = pyseccomp.ERRNO(errno.EPERM)
ENOSYS = pyseccomp.ERRNO(errno.ENOSYS)
X86_64 = pyseccomp.Arch.X86_64


@cache
def compiled(names: tuple[str, ...], *, write_execute: bool = True) -> bytes:
    return seccomp.compile_filter(seccomp.load_groups(GROUPS, names), write_execute=write_execute)


def verdict(program: bytes, number: int, *args: int, arch: int = X86_64) -> int:
    """What the kernel would do: a classic BPF interpreter for what seccomp programs consist of."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *(*args, *[0] * (6 - len(args))))
    code = list(struct.iter_unpack("=HBBI", program))
    position = 0
    accumulator: int = 0
    while True:
        op, yes, no, k = code[position]
        position += 1
        match op:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x54:
                accumulator &= k
            case 0x05:
                position += k
            case 0x06:
                return int(k)
            case 0x15:
                position += yes if accumulator == k else no
            case 0x25:
                position += yes if accumulator > k else no
            case 0x35:
                position += yes if accumulator >= k else no
            case _:
                raise AssertionError(f"unexpected instruction {op:#x}")


def number_of(call: str) -> int:
    return int(pyseccomp.resolve_syscall(X86_64, call))


def test_an_ordinary_server_reaches_at_most_150_system_calls() -> None:
    assert len(seccomp.reachable(seccomp.load_groups(GROUPS, SERVER))) <= 150
    assert len(seccomp.reachable(seccomp.load_groups(GROUPS, NETWORK))) <= 150


def test_a_ci_task_reaches_at_most_254_system_calls() -> None:
    assert len(seccomp.reachable(seccomp.load_groups(GROUPS, CI))) <= 254


def test_every_file_is_a_valid_group_and_every_program_fits() -> None:
    names = tuple(sorted(path.stem for path in GROUPS.glob("*.toml")))
    assert set(names) >= set(CI)
    assert len(compiled(names)) // 8 < seccomp.MAX_INSTRUCTIONS


@pytest.mark.parametrize("names", [SERVER, NETWORK, CI], ids=["server", "network", "ci"])
@pytest.mark.parametrize("write_execute", [True, False])
def test_the_program_allows_what_the_lists_say_and_nothing_else(
    names: tuple[str, ...], write_execute: bool
) -> None:
    groups = seccomp.load_groups(GROUPS, names)
    code = compiled(names, write_execute=write_execute)
    whole = {number_of(call) for group in groups for call in group.allow}
    maybe = {number_of(call) for call in seccomp.reachable(groups)}
    for number in range(1100):
        for fill in (0, 0xFFFFFFFFFFFFFFFF):
            found = verdict(code, number, *[fill] * 6)
            assert found != ALLOW or number in maybe, number
            assert found == ALLOW or number not in whole, number


@pytest.mark.parametrize("names", [SERVER, CI], ids=["server", "ci"])
@pytest.mark.parametrize(
    "call",
    [
        "add_key",
        "bpf",
        "clone3",
        "delete_module",
        "finit_module",
        "fsopen",
        "init_module",
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
        "ioperm",
        "iopl",
        "kcmp",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "memfd_create",
        "modify_ldt",
        "mount",
        "move_mount",
        "move_pages",
        "mq_open",
        "msgget",
        "name_to_handle_at",
        "open_by_handle_at",
        "open_tree",
        "openat2",
        "perf_event_open",
        "pidfd_getfd",
        "pivot_root",
        "process_madvise",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "reboot",
        "remap_file_pages",
        "request_key",
        "seccomp",
        "semget",
        "setns",
        "setuid",
        "setxattr",
        "shmget",
        "swapon",
        "syslog",
        "umount2",
        "unshare",
        "userfaultfd",
        "vmsplice",
    ],
)
def test_no_list_reaches_this_call(call: str, names: tuple[str, ...]) -> None:
    assert number_of(call) >= 0
    assert call not in seccomp.reachable(seccomp.load_groups(GROUPS, names))


@pytest.mark.parametrize("number", [335, 400, 423, 435, 437, 451, 452, 462, 470, 600, 0x3FFFFFFF])
def test_numbers_without_a_name_do_not_exist(number: int) -> None:
    for names in (SERVER, CI):
        assert verdict(compiled(names), number) == ENOSYS


@pytest.mark.parametrize(
    ("kind", "protocol", "outcome"),
    [
        (1, 0, ALLOW),
        (1 | 0x80800, 6, ALLOW),
        (2, 17, ALLOW),
        (1, 262, EPERM),  # MPTCP, which Landlock does not see
        (2, 1, EPERM),  # ICMP
        (3, 0, EPERM),  # raw
        (5, 0, EPERM),  # SCTP
        (1, 17, EPERM),
    ],
)
@pytest.mark.parametrize("family", [2, 10])
def test_network_sockets_are_tcp_or_udp(family: int, kind: int, protocol: int, outcome: int) -> None:
    for names in (NETWORK, CI):
        assert verdict(compiled(names), number_of("socket"), family, kind, protocol) == outcome


@pytest.mark.parametrize("family", [1, 16, 17, 40, 44])
def test_other_families_are_refused(family: int) -> None:
    code = number_of("socket")
    assert verdict(compiled(NETWORK), code, family, 1, 0) == EPERM
    assert verdict(compiled(CI), code, family, 1, 0) == EPERM


def test_what_an_argument_has_above_its_32_bits_does_not_matter() -> None:
    high = 0xDEAD00000000
    ioctl, clone = number_of("ioctl"), number_of("clone")
    assert verdict(compiled(SERVER), ioctl, 0, 0x5412 | high) == EPERM
    assert verdict(compiled(SERVER), ioctl, 0, 0x5401 | high) == ALLOW
    assert verdict(compiled(SERVER), clone, 0x10000000 | high) == EPERM
    assert verdict(compiled(SERVER), number_of("prlimit64"), 1 | high) == EPERM


def test_groups_combine_in_any_order() -> None:
    backwards = tuple(reversed(CI))
    assert {verdict(compiled(backwards), n) == verdict(compiled(CI), n) for n in range(460)} == {True}
    assert verdict(compiled(CI), number_of("faccessat2")) == ALLOW
    assert verdict(compiled(SERVER), number_of("faccessat2")) == ENOSYS


def test_the_architecture_is_checked_before_anything_else() -> None:
    for arch in (pyseccomp.Arch.X86, pyseccomp.Arch.AARCH64):
        for number in (0, 335, 999):
            assert verdict(compiled(SERVER), number, arch=arch) == pyseccomp.KILL_PROCESS


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[allow]\nread = "x"\nrede = "y"', 5, "'rede' is not a system call"),
        ('[allow]\nread = ""', 4, "of length >= 1"),
        ('alow = { read = "x" }', 3, "unknown key"),
        ('[refuse]\nread = { errno = "EPERM", reason = "x" }', 4, "other than EPERM"),
        ('[refuse]\nread = { errno = "ENOPE", reason = "x" }', 4, "'ENOPE' is not an errno"),
        ('[refuse]\nread = { errno = "ENOSYS" }', 4, "is missing"),
        ('[[when]]\ncall = "read"\nreason = "x"', 3, "belongs into [allow]"),
        ('[[when]]\ncall = "read"\nargs = []\n[[when]]\ncall = "rede"\nargs = []\nreason = "x"', 3, "is missing"),
        ('[[when]]\nargs = [{ index = 6, values = [0] }]\ncall = "read"\nreason = "x"', 4, "a number <= 5, not 6"),
        ('[[when]]\nargs = [{ index = 0, mask = 6, values = [1] }]\ncall = "read"\nreason = "x"', 4, "never be"),
        ('[[numbers]]\nfirst = 1\nlast = 0x40000000\nerrno = "ENOSYS"\nreason = "x"', 5, "a number <= 1073741823"),
    ],
)
def test_a_fault_is_named_with_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    (tmp_path / "odd.toml").write_text(f'group = "odd"\nsummary = "Odd."\n{text}\n')
    with pytest.raises(ConfigError) as caught:
        seccomp.load_groups(tmp_path, ["odd"])
    assert str(caught.value).startswith(f"{tmp_path}/odd.toml:{line}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("group = \n", r"odd\.toml:1: "),
        ('group = "even"\nsummary = "x"', "named 'even', not 'odd'"),
        (None, "there are: "),
    ],
)
def test_a_file_that_is_no_group_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        seccomp.load_groups(tmp_path, ["odd"])


def test_two_errnos_for_one_call_are_refused(tmp_path: Path) -> None:
    for name, number in (("one", "ENOSYS"), ("two", "ENOTSUP")):
        (tmp_path / f"{name}.toml").write_text(
            f'group = "{name}"\nsummary = "x"\n[refuse]\nsplice = {{ errno = "{number}", reason = "x" }}\n'
        )
    with pytest.raises(ConfigError, match="splice is ENOTSUP here, ENOSYS elsewhere"):
        seccomp.compile_filter(seccomp.load_groups(tmp_path, ["one", "two"]), write_execute=False)

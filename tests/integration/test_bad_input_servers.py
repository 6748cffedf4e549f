"""Servers and clients that misbehave: the other side gets an answer, and the session an end."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration import adversary
from tests.integration.adversary import assert_told, program, receive, run, send, server, started, write_profile

pytestmark = pytest.mark.timeout(60)

RUN = ("run", "-q", "--profile", "none", "--")
ASK = b'{"jsonrpc":"2.0","id":1,"method":"initialize"}'


def ask(number: object, method: str = "x") -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method}).encode()


def end_of(process: subprocess.Popen[bytes]) -> tuple[bytes, str]:
    """Close its input and wait: the rest of its output, and what it said."""
    out, err = process.communicate(timeout=20)
    said = err.decode()
    assert "Traceback" not in said, said
    return out, said


def test_a_server_that_exits_at_once_is_an_answer_and_its_own_status() -> None:
    with started(*RUN, *server("exit")) as process:
        send(process, ASK)
        answer = json.loads(receive(process))
        out, said = end_of(process)
    assert answer["id"] == 1
    assert "exited with status 3" in answer["error"]["message"]
    assert (process.returncode, out, said) == (3, b"", "")


def test_a_server_that_exits_at_once_is_a_message_to_a_call() -> None:
    done = run("call", "-q", "--profile", "none", "x", "--", *server("exit"))
    assert_told(done, 1, "session has ended", "exited with status 3")


def test_lines_that_are_no_json_are_kept_from_the_client_and_told_harmlessly() -> None:
    with started(*RUN, *server("garbage")) as process:
        send(process, ASK)
        answer = json.loads(receive(process))
        out, said = end_of(process)
    assert answer["result"] == {"method": "initialize"}
    assert (process.returncode, out) == (0, b"")
    assert said.count("not JSON-RPC; dropped: hello") == 100
    assert "without a word" in said
    assert "\x1b" not in said


def test_a_server_that_writes_garbage_can_be_called() -> None:
    done = run("call", "-q", "--profile", "none", "x", "--", *server("garbage"))
    assert done.returncode == 2
    assert 'the server has no tool "x"' in done.stderr
    assert "\x1b" not in done.stderr


def test_a_server_that_closes_its_output_and_lives_is_ended() -> None:
    with started(*RUN, *server("deaf", "closed")) as process:
        send(process, ASK)
        answer = json.loads(receive(process))
        _, said = end_of(process)
    assert "it closed its standard output" in answer["error"]["message"]
    assert process.returncode == 1
    assert said.count("supervisor: ") == 1
    done = run("call", "-q", "--profile", "none", "x", "--", *server("closed", "deaf"))
    assert_told(done, 1, "closed its standard input or output")


def test_a_server_that_never_answers_is_ended_after_its_start_time(tmp_path: Path) -> None:
    path = write_profile(tmp_path, "mine", '[session]\nstart = "500ms"\n')
    with started("run", "-q", "--profile", path, "--", *server("silent", "deaf")) as process:
        send(process, ASK)
        answer = json.loads(receive(process))
        _, said = end_of(process)
    assert answer["id"] == 1
    assert "did not answer its first request within 0.5 s (session.start)" in answer["error"]["message"]
    assert process.returncode == 1
    assert said.count("supervisor: ") == 1
    done = run("call", "-q", "--profile", path, "x", "--", *server("silent", "deaf"))
    assert_told(done, 1, "did not answer initialize in time")


def test_a_server_that_does_not_read_is_no_hang(tmp_path: Path) -> None:
    path = write_profile(tmp_path, "mine", '[session]\nstart = "5s"\n')
    code = (
        "import json, signal, sys\n"
        "for _ in range(3):\n"
        "    request = json.loads(sys.stdin.readline())\n"
        "    tools = [{'name': 'x', 'inputSchema': {'properties': {'a': {'anyOf': 5, 'type': [[1]]}}}}]\n"
        "    answer = {'id': request.get('id'), 'result': {'tools': tools}}\n"
        "    if 'id' in request: print(json.dumps(answer), flush=True)\n"
        "signal.pause()\n"
    )
    argv = ("call", "-q", "--timeout", "1", "--profile", str(path), "x", "a=" + "x" * 100_000, "--", *program(code))
    assert_told(run(*argv), 1, "does not read its standard input")


def test_an_endless_line_ends_the_session(tmp_path: Path) -> None:
    path = write_profile(tmp_path, "mine", '[limits]\noutput_line = "64K"\n')
    with started("run", "-q", "--profile", path, "--", *server("deaf", "endless")) as process:
        send(process, ASK)
        answer = json.loads(receive(process))
        out, said = end_of(process)
    assert "line of more than 65536 bytes (limits.output_line)" in answer["error"]["message"]
    assert (process.returncode, out) == (1, b"")
    assert said.count("supervisor: ") == 1
    done = run("call", "-q", "--profile", path, "x", "--", *server("deaf", "endless"))
    assert_told(done, 1, r"more than 65536 bytes \(limits.output_line\)")


def test_a_flood_on_standard_error_is_cut_and_said(tmp_path: Path) -> None:
    path = write_profile(tmp_path, "mine", '[limits]\nstderr = "1M"\n')
    with started("run", "-q", "--profile", path, "--", *server("flood")) as process:
        send(process, ASK)
        assert process.stderr
        out, err = process.communicate(timeout=20)
    assert b'"result"' in out
    assert process.returncode == 0
    # the limit of the file above the floor's is its own, 1 MiB
    assert 1_000_000 < err.count(b"e") < 1_100_000
    assert b"is over 1048576 bytes; the rest is dropped (limits.stderr)" in err


def test_standard_error_that_nobody_reads_any_more_does_not_stop_the_server() -> None:
    with started(*RUN, *server("flood")) as process:
        assert process.stderr
        process.stderr.close()
        process.stderr = None
        send(process, ASK)
        assert b'"result"' in receive(process)
        out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, b"")


def test_a_server_that_is_killed_for_memory_is_told_with_the_limit(tmp_path: Path) -> None:
    path = write_profile(tmp_path, "mine", '[limits]\nmemory = "64M"\n')
    with started("run", "-q", "--profile", path, "--", *server("daemons")) as process:
        send(process, ASK, ask(7, "hang"), ask("eight", "eat"))
        assert json.loads(receive(process))["id"] == 1
        answers = [json.loads(receive(process)) for _ in range(2)]
        out, said = end_of(process)
    assert [each["id"] for each in answers] == [7, "eight"]
    for each in answers:
        assert "64 MiB of memory (limits.memory)" in each["error"]["message"]
    assert process.returncode == 137
    assert "limits.memory" in said
    assert out == b""


def test_what_is_no_json_is_answered_and_the_connection_lives() -> None:
    bad = [b"{", b"nonsense", b"\xff\xfe", b"[]", b"1", b'"x"', b"null", b'{"id":1', b"[" * 100_000, b'{"id":NaN}']
    with started(*RUN, *server()) as process:
        for line in bad:
            send(process, line)
            answer = json.loads(receive(process))
            assert (answer["id"], answer["error"]["code"]) == (None, -32700), line
        send(process, b"", b"   ", ASK)
        assert json.loads(receive(process))["id"] == 1
        out, said = end_of(process)
    assert (process.returncode, out, said) == (0, b"", "")


@pytest.mark.parametrize(
    "number",
    ["x" * 1_000_000, 2**70, -1, 1.5, "", '\u00e9\n"\\/', "\U0001f600", None, [1, {"a": 2}]],
    ids=["huge", "big", "negative", "fraction", "empty", "escapes", "astral", "null", "structure"],
)
def test_an_id_is_answered_as_it_was_written(number: object) -> None:
    with started(*RUN, *server()) as process:
        send(process, ask(number))
        assert json.loads(receive(process))["id"] == number
        send(process, ask(number, "hang"), ask("last", "quit"))
        lost = [json.loads(receive(process)) for _ in range(2)]
        out, _ = end_of(process)
    assert [each["id"] for each in lost] == [number, "last"]
    assert all("exited with status 5" in each["error"]["message"] for each in lost)
    assert (process.returncode, out) == (5, b"")


def test_an_answer_that_escapes_an_id_differently_is_an_answer() -> None:
    with started(*RUN, *server()) as process:
        send(process, b'{"jsonrpc":"2.0","id":"a\\/b\\u0041","method":"x"}')
        assert json.loads(receive(process))["id"] == "a/bA"
        send(process, ask(2, "quit"))
        rest, _ = end_of(process)
    assert [json.loads(line)["id"] for line in rest.splitlines()] == [2]


def test_an_id_can_be_used_again_after_its_answer_and_batches_are_passed_on() -> None:
    with started(*RUN, *server()) as process:
        for _ in range(3):
            send(process, ask(1))
            assert json.loads(receive(process))["id"] == 1
        send(process, b"[" + ask(2) + b"," + ask(3) + b"]", b'{"jsonrpc":"2.0","method":"n"}', ask(4))
        assert json.loads(receive(process))["id"] == 4
        out, said = end_of(process)
    # the server takes no batches, so nobody has answered these
    assert sorted(json.loads(line)["id"] for line in out.splitlines()) == [2, 3]
    assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize(
    ("first", "second"), [(3, "3"), (3, "3.0"), ("a/b", '"a\\/b"'), ([1], "[ 1 ]"), (3, "batch"), (3, "twice")]
)
def test_a_request_whose_id_is_in_use_is_refused(first: object, second: str) -> None:
    batch = b"[" + ask(7) + b"," + ask(3 if second == "batch" else 7) + b"]"
    line = batch if second in ("batch", "twice") else f'{{"jsonrpc":"2.0","id":{second},"method":"x"}}'.encode()
    with started(*RUN, *server()) as process:
        send(process, ask(first, "hang"), line, ask("next"))
        answer, after = json.loads(receive(process)), json.loads(receive(process))
        end_of(process)
    assert answer["error"]["code"] == -32600
    assert "in use" in answer["error"]["message"]
    assert answer["id"] == (None if line is batch else json.loads(second))
    assert after["id"] == "next"


# it answers what was asked before with "late", and nothing else
LATE = """
import json, sys
held = []
for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request: continue
    held.append(request["id"])
    if request["method"] == "late":
        said = [json.dumps({"jsonrpc": "2.0", "id": each, "result": {}}) for each in held]
        print("[" + ",".join(said) + "]" if len(sys.argv) > 2 else "\\n".join(said), flush=True)
        held = []
"""


def cancel(number: object) -> bytes:
    about = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
    return json.dumps(about).encode()


@pytest.mark.parametrize("ways", [(), ("batch",)])
def test_a_cancelled_request_gets_no_answer_and_its_id_is_free_when_one_has_come(ways: tuple[str, ...]) -> None:
    with started(*RUN, *program(LATE), *ways) as process:
        send(process, ask("first"), ask(1), ask(2), cancel(1), cancel("unknown"), ask(1))
        refused = json.loads(receive(process))
        send(process, ask(3, "late"))
        lines = [receive(process) for _ in range(1 if ways else 3)]
        send(process, ask(1, "late"))
        again = json.loads(receive(process))
        out, said = end_of(process)
    assert (refused["id"], refused["error"]["code"]) == (1, -32600)
    assert "take another" in refused["error"]["message"]
    answers = [each for line in lines for each in (json.loads(line) if ways else [json.loads(line)])]
    assert [each["id"] for each in answers] == ["first", 2, 3]
    assert [each["id"] for each in (again if ways else [again])] == [1]
    assert (out, said) == (b"", "")


def test_what_was_cancelled_counts_neither_as_waiting_nor_at_the_end() -> None:
    with started(*RUN, *server()) as process:
        for start in (0, 4096):
            numbers = range(start, start + 4096)
            send(process, *[line for number in numbers for line in (ask(number, "hang"), cancel(number))])
        send(process, ask("last"))
        assert json.loads(receive(process))["id"] == "last"
        # what was cancelled longest ago is forgotten
        send(process, ask(0))
        assert "result" in json.loads(receive(process))
        out, said = end_of(process)
    assert (process.returncode, out, said) == (0, b"", "")


def test_a_handshake_cannot_be_cancelled() -> None:
    with started(*RUN, *program(LATE)) as process:
        send(process, ask(1, "initialize"), cancel(1), ask(2, "late"))
        assert [json.loads(receive(process))["id"] for _ in range(2)] == [1, 2]
        end_of(process)


def test_hundreds_of_requests_in_flight_are_all_answered() -> None:
    numbers = list(range(300))
    with started(*RUN, *server()) as process:
        send(process, *[ask(number) for number in numbers])
        assert [json.loads(receive(process))["id"] for _ in numbers] == numbers
        send(process, *[ask(number, "hang") for number in numbers], ask("quit", "quit"))
        lost = [json.loads(receive(process)) for _ in range(301)]
        end_of(process)
    assert [each["id"] for each in lost] == [*numbers, "quit"]
    assert process.returncode == 5


def test_too_many_requests_in_flight_are_refused_one_by_one() -> None:
    with started(*RUN, *server()) as process:
        send(process, *[ask(number, "hang") for number in range(4096)], ask("over"))
        answer = json.loads(receive(process))
        assert answer["id"] == "over"
        assert "4096 requests" in answer["error"]["message"]
        process.terminate()
        out, _ = process.communicate(timeout=20)
    ended = [json.loads(line) for line in out.splitlines()]
    assert sorted(each["id"] for each in ended) == list(range(4096))
    assert {each["error"]["message"] for each in ended} == {"the server's session has ended: closed"}


def test_a_message_that_is_too_long_is_refused_and_the_connection_lives() -> None:
    with started(*RUN, *server()) as process:
        send(process, ask(1, "x" * (17 << 20)), ask(2))
        answers = [json.loads(receive(process)) for _ in range(2)]
        end_of(process)
    assert answers[0]["id"] is None
    assert "over the limit" in answers[0]["error"]["message"]
    assert answers[1]["id"] == 2
    assert process.returncode == 0


def test_what_a_server_says_does_not_act_on_the_terminal_or_break_the_output() -> None:
    code = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    if 'id' not in request: continue\n"
        "    result = {'tools': [{'name': 'x'}], 'content': [{'type': 'text', 'text': 'a\\ud800b'}, 5, {}]}\n"
        "    answer = {'id': request['id'], 'result': result}\n"
        "    error = {'message': '\\x1b[2J\\ud800'}\n"
        "    if request['method'] == sys.argv[-1]: answer = {'id': request['id'], 'error': error}\n"
        "    print(json.dumps(answer), flush=True)\n"
    )
    done = run("call", "-q", "--profile", "none", "x", "--", *program(code))
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "a\\ud800b")
    done = run("call", "-q", "--json", "--profile", "none", "x", "--", *program(code))
    assert done.returncode == 0
    done = run("call", "-q", "--profile", "none", "x", "--", *program(code), "tools/call")
    assert_told(done, 1, r"answered with an error: \\x1b\[2J")


def test_a_server_s_own_descriptors_are_its_pipes_alone() -> None:
    done = run("exec", "-q", "--profile", "none", "--", "/usr/bin/ls", "/proc/self/fd")
    assert done.stdout.split() == ["0", "1", "2", "3"]
    assert adversary.marked() == []


def test_call_of_a_server_that_refuses_to_begin_is_told_so_and_ends_in_order() -> None:
    for _ in range(3):
        done = run("call", "-q", "--profile", "none", "x", "--", "/usr/bin/cat")
        assert_told(done, 1, "initialize: the server answered with an error")

"""Records are what OCSF says they must be, what the ledger takes, and hold no secret."""

from __future__ import annotations

import json
import string
import time
from dataclasses import replace
from hashlib import sha256

import jsonschema
import msgspec
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from supervisor.audit import chain, record, schema
from supervisor.audit.reached import Reached
from supervisor.audit.record import Answer, Call, Context, Decision, Opened, Touched
from supervisor.audit.redact import RULES, Redactor, Rule
from supervisor.secrets.marks import Marks, make
from tests.unit.audit import ledgers

HEX = "ab" * 32
CONTEXT = Context(
    user="uid:1000",
    session="12",
    client="claude-code 2.1",
    server="files",
    groups=("staff", "eng"),
    transport="http",
    address="127.0.0.1",
    port=4711,
    profile="fs-readonly",
    spec=HEX,
    image=f"sha256:{HEX}",
    manifest=HEX,
    posture="read back",
    accepted=("limits.memory",),
)
CALL = Call(CONTEXT, "c-1", "read_file", activity=2)
TOUCHED = Touched(
    files=[Opened("/data/a"), Opened("/etc/shadow", "rw", denied=True)],
    hosts=[Reached("example.com", 443, 100, 2000), Reached("evil.test", 80, denied=True)],
    attribution="window",
    during=("c-0", "c-1"),
    limits=("memory",),
)
EVERY = {
    "intent": record.intent(CALL, b'{"path":"/data/a"}', Decision("hold", "grants", "servers.toml:4")),
    "denied": record.intent(CALL, b"[1]", Decision("deny", "r", "no")),
    "outcome": record.outcome(CALL, 1234, Answer("failed", -32603, "it broke", b'{"x":1}', first=100), TOUCHED),
    "least": record.outcome(Call(Context("", "", "", ""), "c", ""), 0),
    "event": record.event(CALL, "approval.granted", {"by": "uid:0", "until": None}),
}
KINDS = {"denied": "intent", "least": "outcome"}


def check(kind: str, data: bytes) -> dict[str, object]:
    """What the ledger does with it, and what is in it."""
    text = data.decode("ascii")
    assert schema.check(kind, text) == len(text)
    return dict(json.loads(text))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    made = OcsfJsonSchemaEmbedded(get_ocsf_schema(schema.VERSION)).get_class_schema(
        "api_activity", [schema.PROFILE]
    )
    return jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_of_record_holds_against_the_published_schema(
    name: str, validator: jsonschema.Draft202012Validator
) -> None:
    value = check(KINDS.get(name, name), EVERY[name])
    assert [f"{list(each.path)}: {each.message}"[:300] for each in validator.iter_errors(value)] == []
    value.pop("actor")
    assert not validator.is_valid(value)


@pytest.mark.parametrize("name", EVERY)
def test_every_record_is_written_in_the_one_spelling(name: str) -> None:
    assert chain.canonical(json.loads(EVERY[name])) == EVERY[name]


def test_an_intent_says_who_may_do_what_by_which_rule() -> None:
    value = json.loads(EVERY["intent"])
    assert value["actor"]["user"] == {"uid": "uid:1000", "groups": [{"name": "staff"}, {"name": "eng"}]}
    assert value["api"]["request"] == {"uid": "c-1", "data": {"path": "/data/a"}}
    assert value["policy"] == {"name": "grants"}
    assert (value["action_id"], value["disposition_id"], value["status_detail"]) == (99, 14, "servers.toml:4")
    assert value["unmapped"]["arguments"]["value"] == sha256(b'{"path":"/data/a"}').hexdigest()
    assert value["unmapped"]["spec"] == HEX


def test_an_outcome_says_what_was_touched_denials_first() -> None:
    value = json.loads(EVERY["outcome"])
    assert [each["name"] for each in value["resources"]] == ["evil.test", "/etc/shadow", "example.com", "/data/a"]
    assert value["resources"][0]["data"] == {"denied": True, "port": 80, "received": 0, "sent": 0}
    assert value["unmapped"]["response"]["bytes"] == 7
    assert value["unmapped"]["response"]["first"] == '{"x":1}'
    assert (value["status_code"], value["api"]["response"]) == (
        "failed",
        {"code": -32603, "error_message": "it broke"},
    )


def test_what_is_too_long_is_cut_and_its_size_told() -> None:
    long = b'{"text":"' + b"x" * 300_000 + b'"}'
    value = check("intent", record.intent(CALL, long))
    metadata = value["metadata"]
    assert isinstance(metadata, dict)
    assert (metadata["is_truncated"], metadata["untruncated_size"]) == (True, len(long))
    many = Touched(files=[Opened(f"/data/{number}/{'d' * 200}") for number in range(20_000)])
    data = record.outcome(CALL, 1, touched=many)
    assert len(data) < schema.RECORD_LIMIT
    value = check("outcome", data)
    about, resources = value["unmapped"], value["resources"]
    assert isinstance(about, dict)
    assert isinstance(resources, list)
    assert about["files_dropped"] + len(resources) == 20_000


@pytest.mark.parametrize(
    "raw",
    [
        b'"\\ud800"',
        b'{"a":"\\u007f\\u0000\\u2028"}',
        '{"a":"\u00e9\U0001f600"}'.encode(),
        b"[" * 50_000,
        b"{",
        b"\xff\xfe",
        b"",
        b"1e999",
        b'{"a":1e400}',
        b"123456789012345678901234567890",
        b'{"a":1,"a":2}',
        b"null",
    ],
)
def test_no_argument_of_a_client_s_makes_a_record_that_is_refused(raw: bytes) -> None:
    check("intent", record.intent(CALL, raw))
    check("outcome", record.outcome(CALL, 1, Answer("lost", -1, raw.decode("latin1"), raw, first=99)))


def test_a_record_that_is_not_of_the_schema_is_refused() -> None:
    whole = EVERY["intent"].decode()
    wrong = [
        whole.replace('"time":', '"tiem":'),
        whole.replace('"category_uid":6,', ""),
        whole.replace('"category_uid":6', '"category_uid":"6"'),
        whole.replace('"type_uid":600302', '"type_uid":600301'),
        whole.replace('"correlation_uid":"c-1"', '"correlation_uid":"c-2"'),
        whole.replace('"tool":"read_file"', '"tool":"read_file","zzz":1'),
        whole.replace('{"path":"/data/a"}', '{"path":1,"path":2}'),
        whole.replace('{"path":"/data/a"}', '{"path":NaN}'),
        whole.replace('{"path":"/data/a"}', '{"path":\n1}'),
        whole.replace('{"path":"/data/a"}', '{"path":1e999}'),
        whole.replace('{"path":"/data/a"}', "[" * 20_000),
        whole.replace("/data/a", "/data/\x7f"),
        whole.replace(",", ", ", 1),
        EVERY["outcome"].decode(),
        "",
    ]
    assert len(set(wrong)) == len(wrong)
    for text in wrong:
        with pytest.raises(schema.Malformed):
            schema.check("intent", text)


SECRET = "hunter2-and-more"  # not anybody's
PLANTED = [
    {"password": SECRET},
    {"x": {"ApiToken": SECRET}},
    {"Authorization": [SECRET]},
    {"text": f"before {SECRET} after"},
    {"list": [{"deep": SECRET}]},
    {f"key-{SECRET}": 1},
    {"client_secret": {"value": SECRET}},
]


@pytest.mark.parametrize("arguments", PLANTED)
def test_a_secret_is_in_no_record_wherever_it_was(arguments: dict[str, object]) -> None:
    call = CALL._replace(context=replace(CONTEXT, redactor=Redactor(secrets=Marks(make({"API": SECRET}, b"key")))))
    raw = msgspec.json.encode(arguments)
    data = record.intent(call, raw, Decision("deny", "r", f"because of {SECRET}"))
    data += record.outcome(call, 1, Answer("failed", 1, f"bad {SECRET}", raw, first=1000))
    data += record.event(call, "x", {"why": SECRET})
    assert SECRET.encode() not in data
    assert b"[redacted: " in data
    assert json.loads(record.intent(call, raw))["unmapped"]["redacted"] >= 1


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----",
        "Authorization: Bearer abcdefgh.ijklmn",
        "ghp_" + string.ascii_letters,
        "AKIA" + "A1" * 8,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        "postgres://user:pa55word@host/db",
        "redis://:pa55word@host/0",
        "postgres://user:half@pa55word@host/db",
        "https://host/?page=1&access_token=pa55word&x=1",
        '{"user":"me","Password": "pa55word"}',
        '{\\"client_secret\\":\\"pa55word\\"}',
        "curl -H 'X-Api-Key: pa55word' --password=pa55word",
        "export DB_PASSWD=pa55word",
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str) -> None:
    clean = Redactor().text(f"a {text} z")
    assert clean.startswith("a ")
    assert "[redacted: " in clean
    assert text not in clean
    assert "pa55word" not in clean


@pytest.mark.parametrize(
    "odd", [rb'"\ud800"', b"1e999", b"9" * 5000, b"[" * 5000 + b"]" * 5000], ids=["half", "far", "long", "deep"]
)
def test_what_msgspec_does_not_take_is_known_by_its_keys_all_the_same(odd: bytes) -> None:
    raw = b'{"password":"%b","other":%b,"path":"/data/a"}' % (SECRET.encode(), odd)
    written = record.intent(CALL, raw)
    assert SECRET.encode() not in written
    assert b"[redacted: " in written
    schema.check("intent", written.decode())


def test_of_members_with_one_name_all_are_written_down() -> None:
    raw = b'{"path":"/first","a":[{"token":"%b","token":"%b"}], "path":"/last"}' % (b"hunter1", b"hunter2")
    # as long as it would be without the first
    even = raw.replace(b'"a"', b'"b":1e20,"a"')
    for each in (raw, raw.replace(b", ", b","), even, b'{"path":"/first","b":1e11,"path":"/last"}'):
        written = record.intent(CALL, each)
        schema.check("intent", written.decode())
        data = json.loads(written)["api"]["request"]["data"]
        assert data["path"] == {"repeated": ["/first", "/last"]}
        assert b"hunter" not in written
    spaced = b'{"path": "/data", "n": [1.0, 1e3, {"a": "\xc3\xbc"}]}'
    assert json.loads(record.intent(CALL, spaced))["api"]["request"]["data"] == json.loads(spaced)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_text_of_nothing_but_beginnings_costs_no_square(rule: Rule) -> None:
    began = time.process_time()
    for anchor in (*rule.anchors, "eyJ"):
        for between in ("", "-", ".", " ", "=", ":", "a:", "/"):
            Redactor(rules=(rule,)).text(f"{anchor}{between}" * (200_000 // len(anchor)))
            Redactor(rules=(rule,)).text(f"{between}{anchor.upper()}" * (200_000 // len(anchor)))
    assert time.process_time() - began < 10


def test_a_secret_is_known_where_it_is_cut_and_where_it_is_encoded() -> None:
    redactor = Redactor(secrets=Marks(make({"API": SECRET}, b"key")))
    call = CALL._replace(context=replace(CONTEXT, redactor=redactor))
    answer = Answer(content=f"x{SECRET}".encode(), first=8)
    assert json.loads(record.outcome(call, 1, answer))["unmapped"]["response"]["first"] == "x[redact"
    encoded = "aHVudGVyMi1hbmQtbW9yZQ=="
    assert encoded not in redactor.text(f"basic-auth={encoded}")
    assert redactor.text("a hunter2 b") == "a hunter2 b"


def test_ordinary_arguments_are_left_as_they_are() -> None:
    arguments = {
        "path": "/data/token.txt",
        "n": 1,
        "b": True,
        "none": None,
        "f": 1.5,
        "l": ["ü"],
        "max_tokens": None,
        "who": "token:ci, oidc:me; max_tokens=4096; the secret is out",
    }
    assert Redactor().clean(arguments) == arguments


@pytest.mark.parametrize("fill", ["a" * 54_000, "\\\\" * 27_000, "\\u0041" * 9_000])
@pytest.mark.parametrize("kind", ["intent", "outcome"])
def test_what_is_no_record_is_refused_as_fast_as_one_is_taken(kind: str, fill: str) -> None:
    good = ledgers.sample("c", kind).decode().replace('"svc_name":"stdio"', f'"svc_name":"{fill}"')
    open_ended = ledgers.sample("c", kind).decode()[:-2].replace('"tool":"read_file', f'"tool":"{fill}')
    began = time.process_time()
    for _ in range(60):
        schema.check(kind, good)
    took = time.process_time() - began
    for bad in (good[:-1] + "!", good[:-2] + ",", open_ended) * 20:
        with pytest.raises(schema.Malformed):
            schema.check(kind, bad)
    assert time.process_time() - began < 4 * took + 0.02

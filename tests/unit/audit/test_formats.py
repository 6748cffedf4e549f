"""Every format says what the record says, and nothing that was said can break out of its field."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
from google.protobuf import json_format
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from supervisor.audit import formats, read, record, schema
from supervisor.audit.cursors import START
from supervisor.audit.formats import Event, Item
from supervisor.audit.record import Answer, Call, Context, Decision
from supervisor.audit.segments import Log, Rules
from tests.unit.audit.test_record import EVERY

EVIL = 'a|b=c\\d\te\nf\r"]g\u2028h\x1b[31m CEF:0|x|y'


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """Of every kind, and with what nobody would send who means well."""
    folder = tmp_path_factory.mktemp("formats") / "0"
    folder.mkdir()
    log = Log(folder, Rules())
    for kind, name in (("intent", "intent"), ("intent", "denied"), ("outcome", "outcome"), ("event", "event")):
        log.append(kind, (1000, 42), EVERY[name])
    evil = Call(Context(EVIL, EVIL, EVIL, EVIL), EVIL, EVIL)
    log.append("intent", (1000, 42), record.intent(evil, b"{}", Decision("deny", EVIL, EVIL)))
    log.append("outcome", (1000, 42), record.outcome(evil, 5, Answer("failed", 1, EVIL)))
    log.note("torn", bytes=5)
    log.commit()
    log.commit()  # and the note
    items = [Item("ab", each.segment, each.line, each.fault) for each in read.lines(folder, START)]
    assert not any(each.fault for each in items)
    made = formats.events([*items, Item("ab", 1, None, "changed")])
    assert [each.entry.kind for each in made][-2:] == ["torn", "fault"]
    return made


def test_every_event_is_ocsf_as_it_is_published(events: list[Event]) -> None:
    made = OcsfJsonSchemaEmbedded(get_ocsf_schema(schema.VERSION)).get_class_schema(
        "api_activity", [schema.PROFILE]
    )
    validator = jsonschema.Draft202012Validator(made)
    for event in events:
        data = formats.ocsf(event)
        assert b"\n" not in data
        value = json.loads(data)
        assert [f"{list(each.path)}: {each.message}"[:300] for each in validator.iter_errors(value)] == []
        assert value["metadata"]["sequence"] == event.seq
        if event.entry.speaker[1] == 42:
            assert value["actor"]["process"] == {"pid": 42, "user": {"uid": "1000"}}
    hosts = [each["value"] for each in json.loads(formats.ocsf(events[2]))["observables"] if each["type_id"] == 1]
    assert hosts == ["evil.test", "example.com"]


def read_cef(text: str) -> tuple[list[str], dict[str, str]]:
    """As the format's own description has it."""
    head = re.split(r"(?<!\\)(?:\\\\)*\|", text, maxsplit=7)
    pairs = re.findall(r"(?:^| )([A-Za-z0-9]+)=((?:[^\\=]|\\.)*?)(?= [A-Za-z0-9]+=|$)", head[7])
    escapes = {"\\\\": "\\", "\\=": "=", "\\n": "\n", "\\r": "\r"}
    return head[:7], {key: re.sub(r"\\.", lambda found: escapes[found[0]], value) for key, value in pairs}


def test_cef_is_one_line_with_seven_fields_whatever_was_said(events: list[Event]) -> None:
    for event in events:
        text = formats.cef(event).decode()
        assert text.isprintable()
        head, said = read_cef(text)
        assert head[:4] == ["CEF:0", "supervisor", "supervisor", "0.1.0"]
        assert 0 <= int(head[6]) <= 10
        assert said["cn1"] == str(event.seq)
        if event.entry.user:
            # what is no character to be shown becomes a space
            assert said["suser"] == re.sub("[\t\x1b\u2028]", " ", event.entry.user)
    _, said = read_cef(formats.cef(events[2]).decode())
    assert (said["filePath"], said["dhost"]) == ("/etc/shadow (denied), /data/a", "evil.test (denied), example.com")
    assert (said["cs1Label"], said["cs1"], said["outcome"]) == ("server", "files", "failed")


def test_leef_is_one_line_of_pairs_whatever_was_said(events: list[Event]) -> None:
    for event in events:
        text = formats.leef(event).decode()
        assert text.replace("\t", " ").isprintable()
        head, said = text.split("|x09|", 1)
        assert head.count("|") == 4
        pairs = dict(each.split("=", 1) for each in said.split("\t"))
        assert pairs["sequence"] == str(event.seq)
        assert pairs["devTime"] == str(event.entry.time // 1000)


RFC5424 = re.compile(
    r"<(\d{1,3})>1 (-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) "
    r"([!-~]{1,32}) "
    r'\[[!-~]{1,32}( [!-~]{1,32}="[^"\]\\]*")*\] ([^\n]+)'
)


def test_a_syslog_message_has_the_parts_of_rfc_5424(events: list[Event]) -> None:
    for event in events:
        found = RFC5424.fullmatch(formats.syslog(event, formats.ocsf(event)).decode())
        assert found
        assert int(found[1]) // 8 == 13
        assert json.loads(found[8])["metadata"]["sequence"] == event.seq
    urgent = [int(formats.syslog(each, b"x").split(b">")[0][1:]) % 8 for each in events]
    assert urgent[:2] == [6, 4]


def test_otlp_is_what_the_protocol_s_own_definition_reads(events: list[Event]) -> None:
    request = ExportLogsServiceRequest()
    json_format.Parse(formats.otlp(events), request)
    (resource,) = request.resource_logs
    records = resource.scope_logs[0].log_records
    assert [each.time_unix_nano for each in records] == [each.entry.time * 1000 for each in events]
    assert [json.loads(each.body.string_value)["metadata"]["sequence"] for each in records] == [
        each.seq for each in events
    ]
    named = {each.key: each.value for each in records[0].attributes}
    assert named["mcp.tool"].string_value == "read_file"
    assert named["audit.sequence"].int_value == events[0].seq
    assert records[1].severity_number == 13

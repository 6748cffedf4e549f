"""What the awkward server lists and says about itself, as text: fields that nobody knows at every level.

Written out and never built, so that each byte is what it looks like.
"""

from __future__ import annotations

INFO = (
    '{"name":"awkward","version":"1","title":"Awk\\u0077ard","x-info":{"a":[{}]},"description":"for tests",'
    '"websiteUrl":"https://example.com/","icons":[{"src":"data:,","sizes":["any"],"theme":"dark","x-icon":1.0}]}'
)
CAPABILITIES = (
    '{"x-capability":{},"tools":{"listChanged":true,"x-vendor":2.50},"prompts":{"listChanged":true},'
    '"resources":{"subscribe":true,"listChanged":true},"completions":{},"logging":{"x":[]},'
    '"experimental":{"example.com/e":{"on":true}},"extensions":{"com.example/x":{"a":1},'
    '"io.modelcontextprotocol/tasks":{}},"tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}}'
)
INSTRUCTIONS = '"Read\\tthis \\u2014 \\ud83d\\ude00 twice."'
META = '"_meta":{"com.example/k":{"n":1.10,"big":123456789012345678901234567890}}'
SCHEMA = (
    '{"type":"object","$defs":{"a":{"$anchor":"a","type":"string"}},"properties":{"v":{"$ref":"#a"},'
    '"n":{"type":"number","minimum":1e-3,"default":1.0}},"x-schema":[true],"additionalProperties":true}'
)
EMPTY = '{"type":"object"}'


def tool(name: str, description: str, schema: str = EMPTY) -> str:
    """One tool of the list."""
    return (
        f'{{"x-tool":{{"z":1,"a":2}},"inputSchema":{schema},"description":"{description}","name":"{name}",'
        f'"title":"The \\u0074ool","annotations":{{"readOnlyHint":true,"x-hint":0.0}},"icons":[],{META},'
        '"execution":{"taskSupport":"optional","x-e":null}}'
    )


def resource(uri: str, name: str) -> str:
    """One resource of the list."""
    return (
        f'{{"uri":"{uri}","size":1.0e1,"name":"{name}","x-resource":[],"mimeType":"text/plain",'
        f'"annotations":{{"priority":0.50,"audience":["user"],"x-a":1}},{META}}}'
    )


RESOURCES = (
    resource("awkward://one", "one"),
    resource("awkward://two?q=%C3%A9&r=1#f", "t\\u0077o"),
    resource("file:///etc/hosts", "looks like a file"),
    resource("test://static-text", "another server may have it too"),
)
TEMPLATES = (
    f'{{"uriTemplate":"awkward://item/{{id}}{{?q}}","name":"item","x-template":true,{META}}}',
    '{"uriTemplate":"file:///{+path}","name":"any file","mimeType":"text/plain"}',
)
PROMPTS = (
    f'{{"name":"greet","arguments":[{{"name":"who","required":true,"x-argument":1.0}}],"x-prompt":{{}},{META}}}',
    '{"name":"other__greet","description":"looks like another server\'s"}',
)
MESSAGE = (
    '{"role":"assistant","content":{"type":"text","text":"a \\u0022quoted\\u0022 text","x-content":1.0},"x-m":[]}'
)
NUMBERS = (
    '{"one":1.0,"thousand":1e3,"small":1E-7,"zero":-0,"minus":-0.0,"max":9007199254740993,'
    '"huge":123456789012345678901234567890,"long":0.1000000000000000055511151231257827,"beyond":1e400}'
)
ESCAPES = (
    '{"plain":"\\u0041\\u00e9","pair":"\\ud83d\\ude00","raw":"\u00e9\U0001f600",'
    '"slash":"\\/ and /","nul":"\\u0000","lines":"\u2028\u2029","controls":"\\b\\f\\n\\r\\t\\u001b[31m",'
    '"":"empty key","a.b":{"\\u006bey":"escaped key"},"__proto__":{},"bom":"\ufeff"}'
)
# Every kind of id that a request may have; the last two are one character, written in two ways.
IDS = ("0", "-1", "9007199254740993", '""', '"0"', '"a \\"quoted\\" \\u0069d"', '"\u00e9"', '"\\u00e8"')


def page(kind: str, items: tuple[str, ...], cursor: str, size: int) -> str:
    """The members of a list's result: all items, or one page of them and a cursor for the next."""
    start = int(cursor.removeprefix("page \u2192 ") or 0)
    shown = items[start : start + size] if size else items[start:]
    following = start + len(shown)
    more = f'"nextCursor":"page \\u2192 {following}",' if following < len(items) else ""
    return f'{more}"x-list":{{"k":[1.0]}},"{kind}":[{",".join(shown)}],{META}'

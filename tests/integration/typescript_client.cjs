// One session with an MCP server by the official TypeScript SDK, of both of its lines; what happened as JSON on stdout.
//
// argv: the folder with the SDKs, and what to do as JSON: sdk (1 or 2), mode (of sdk 2: legacy, auto, or a revision),
// command (a list) or url, and calls (tool and arguments each). Questions of the server are answered and counted.
"use strict";
const { createRequire } = require("node:module");

const [folder, text] = process.argv.slice(2);
const wanted = JSON.parse(text);
const load = createRequire(`${folder}/index.js`);
const asked = [];
const answers = {
  "elicitation/create": () => ({ action: "accept", content: { username: "ada", email: "ada@example.com" } }),
  "sampling/createMessage": () => ({ role: "assistant", model: "m", content: { type: "text", text: "sampled" } }),
  "roots/list": () => ({ roots: [{ uri: "file:///project", name: "project" }] }),
};
const capabilities = { elicitation: {}, sampling: {}, roots: {} };
const info = { name: "typescript", version: "1.0.0" };

function older() {
  const { Client } = load("@modelcontextprotocol/sdk/client/index.js");
  const { StdioClientTransport } = load("@modelcontextprotocol/sdk/client/stdio.js");
  const { StreamableHTTPClientTransport } = load("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const types = load("@modelcontextprotocol/sdk/types.js");
  const client = new Client(info, { capabilities });
  const schemas = {
    "elicitation/create": types.ElicitRequestSchema,
    "sampling/createMessage": types.CreateMessageRequestSchema,
    "roots/list": types.ListRootsRequestSchema,
  };
  return { client, StdioClientTransport, StreamableHTTPClientTransport, handle: (method) => schemas[method] };
}

function newer() {
  const { Client, StreamableHTTPClientTransport } = load("@modelcontextprotocol/client");
  const { StdioClientTransport } = load("@modelcontextprotocol/client/stdio");
  const mode = ["legacy", "auto"].includes(wanted.mode) ? wanted.mode : { pin: wanted.mode };
  const client = new Client(info, { capabilities, versionNegotiation: { mode } });
  return { client, StdioClientTransport, StreamableHTTPClientTransport, handle: (method) => method };
}

async function main() {
  const { client, StdioClientTransport, StreamableHTTPClientTransport, handle } = wanted.sdk === 1 ? older() : newer();
  for (const method of Object.keys(answers)) {
    client.setRequestHandler(handle(method), async () => {
      asked.push(method);
      return answers[method]();
    });
  }
  const [command, ...args] = wanted.command || [];
  const transport = wanted.url
    ? new StreamableHTTPClientTransport(new URL(wanted.url))
    : new StdioClientTransport({ command, args, env: process.env, stderr: "inherit" });
  await client.connect(transport);
  const tools = [];
  for (let cursor; ; ) {
    const page = await client.listTools(cursor ? { cursor } : undefined);
    tools.push(...page.tools.map((each) => each.name));
    if (!(cursor = page.nextCursor)) break;
  }
  const results = [];
  for (const { name, arguments: given } of wanted.calls) {
    const result = await client.callTool({ name, arguments: given });
    results.push(result.content.map((block) => block.text ?? block.type).join("\n"));
  }
  const resources = (await client.listResources()).resources.map((each) => each.uri);
  const prompts = (await client.listPrompts()).prompts.map((each) => each.name);
  // sdk 1 keeps the version in its HTTP transport only, and knows one era
  const version = wanted.sdk === 1 ? "2025-11-25" : client.getNegotiatedProtocolVersion();
  await client.close();
  console.log(JSON.stringify({ version, tools, results, resources, prompts, asked }));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

"""A hardened runtime for MCP servers. See README.md for the picture and the invariants."""

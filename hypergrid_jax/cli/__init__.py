"""The `hypergrid` command."""

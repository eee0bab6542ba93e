"""A user's task as a TOML document."""

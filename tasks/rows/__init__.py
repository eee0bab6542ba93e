"""Rows of files: where they lie, how they are read, what a row may hold."""

"""Rows of files: which files there are, how they are read, what a row may hold."""

"""Checkpoints that are whole or absent: written, read, streamed, verified."""

"""One run and its directory: data opened, set up, compiled and trained."""

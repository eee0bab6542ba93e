"""One run and its directory: data opened, set up, compiled, trained, summarised."""

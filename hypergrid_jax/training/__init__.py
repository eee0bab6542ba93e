"""The training loop: its step, state, optimisers, freezing, sampling."""

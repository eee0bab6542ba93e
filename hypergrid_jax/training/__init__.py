"""The training loop, its step and state, optimisers, freezing, uncertainty sampling."""

"""T5: configuration, layers, extension points, stacks, decoding, losses."""

from hypergrid_jax.model.architecture import Model

__all__ = ['Model']

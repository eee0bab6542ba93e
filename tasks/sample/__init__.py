"""A small corpus of our own in the schemas of GLUE and SuperGLUE.

Small grammars write every row; nothing is downloaded and nothing is copied.
The rows have the fields, types and label numbers of the TFDS data sets, so
that the same task definitions read either. The same rows come out on every
machine and with every Python.
"""

import copy
import pathlib
from typing import Any

from hypergrid_jax import errors
from hypergrid_jax.tasks.sample import corpus

# The version of the content; stores built from another one are out of date.
VERSION = '1.0.0'

# The SentencePiece model that `build_vocabulary` trained on this corpus.
VOCABULARY = pathlib.Path(__file__).with_name('vocabulary.model')


def configs(benchmark: str) -> tuple[str, ...]:
  """Returns the configurations of 'glue' or 'super_glue' that exist here.

  Raises:
    UserError: there is no such benchmark.
  """
  known = dict.fromkeys(name for name, _ in corpus.CONFIGS)
  if benchmark not in known:
    raise errors.UserError(
      f'The sample corpus has no benchmark {benchmark!r}; it has '
      f'{", ".join(known)}.{errors.closest(benchmark, known)}'
    )
  return tuple(c for name, c in corpus.CONFIGS if name == benchmark)


def splits(benchmark: str, config: str) -> tuple[str, ...]:
  """Returns the splits of a configuration, in the order of the real data.

  Raises:
    UserError: there is no such benchmark or configuration.
  """
  known = configs(benchmark)
  if config not in known:
    raise errors.UserError(
      f'The sample corpus has no {benchmark}/{config}; it has '
      f'{", ".join(known)}.{errors.closest(config, known)}'
    )
  return tuple(corpus.CONFIGS[benchmark, config].sizes)


def rows(benchmark: str, config: str, split: str) -> list[dict[str, Any]]:
  """Returns the rows of a split, as plain Python values.

  Args:
    benchmark: 'glue' or 'super_glue'.
    config: TFDS configuration, such as 'mnli' or 'wsc' (which stands for
      'wsc.fixed' too).
    split: such as 'train' or 'validation_matched'.

  Returns:
    One dictionary per row, the caller's own. Strings are str, labels int (-1
    where the real test labels are withheld), stsb's score float; features with
    several fields are dictionaries, sequences lists.

  Raises:
    UserError: there is no such benchmark, configuration or split.
  """
  known = splits(benchmark, config)
  if split not in known:
    raise errors.UserError(
      f'The sample corpus has no split {split!r} of {benchmark}/{config}; it '
      f'has {", ".join(known)}.{errors.closest(split, known)}'
    )
  return copy.deepcopy(list(corpus.generate(benchmark, config)[split]))

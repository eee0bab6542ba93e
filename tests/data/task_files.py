"""Files of a task, for tests that read them back."""

import gzip
import json

from hypergrid_jax.tasks.definitions import definition
from hypergrid_jax.tasks.rows import sources

RTE = definition('super_glue_rte')
GOOD = {'premise': 'P', 'hypothesis': 'H', 'idx': 7, 'label': 1}
HEADER = 'premise\thypothesis\tidx\tlabel\n'


def place(directory, task, name, content):
  """Writes a file of a task, text or bytes, and returns its path."""
  folder = directory / task.benchmark / task.config
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / name
  content = content.encode() if isinstance(content, str) else content
  path.write_bytes(gzip.compress(content) if name.endswith('gz') else content)
  return path


def read(directory, task=RTE, split='train'):
  return list(sources.read_rows(f'files:{directory}', task, split))


def lines(*rows):
  return ''.join(json.dumps(row) + '\n' for row in rows)

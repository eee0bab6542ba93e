"""One host of a run that only reads: prints what a step gives it.

  python -m tests.data.host_process DIRECTORY HOST NUM_HOSTS

Answers every step's number on its input with a line of JSON: for each of three
loaders, digests of the rows that this host has.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys

import numpy as np

from hypergrid_jax.data import loader, token_files, tokens

COUNTS = {'a': 911, 'b': 97, 'c': 10}
BATCH_SIZE, SEED = 24, 11
ROW_LENGTHS = (61, 23)
LAYOUTS = {
  'packed': {'packed': True, 'max_segments': 7},
  'unpacked': {'packed': False, 'max_segments': 1},
  'bucketed': {
    'packed': False,
    'max_segments': 1,
    'length_buckets': (9, 20, 61),
  },
}


def write_stores(directory: pathlib.Path):
  """Writes a store per task."""
  rng = np.random.default_rng(0)
  for name, count in COUNTS.items():
    path = directory / name
    path.mkdir()
    writer = token_files.StoreWriter(path, vocabulary_size=1000)
    for _ in range(count):
      length = int(np.clip(rng.gamma(3.0, 5.0), 2, ROW_LENGTHS[0]))
      writer.add(
        rng.integers(2, 1000, length), rng.integers(2, 1000, length % 5 + 1), {}
      )
    writer.finish({'task': name, 'split': 'train', 'counts': {}})


def make_loaders(directory: pathlib.Path) -> list[loader.Loader]:
  """Makes the three loaders on the stores."""
  stores = {
    name: tokens._load(
      directory / name, token_files.read_manifest(directory / name)
    )
    for name in COUNTS
  }
  return [
    loader.Loader(
      stores,
      task_ids={'a': 2, 'b': 0, 'c': 1},
      rates={'a': 0.5, 'b': 0.4, 'c': 0.1},
      batch_size=BATCH_SIZE,
      row_lengths=ROW_LENGTHS,
      seed=SEED,
      **layout,
    )
    for layout in LAYOUTS.values()
  ]


def row_digests(made: loader.Loader, step: int, host: int, num_hosts: int):
  """Returns a digest of everything that a batch has of each of its rows."""
  batch = made.batch(step, host, num_hosts)
  arrays = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
  digests = []
  for line in range(BATCH_SIZE // num_hosts):
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
      row = np.ascontiguousarray(array[line])
      digest.update(f'{row.dtype}{row.shape}'.encode() + row.tobytes())
    digests.append(digest.hexdigest())
  return digests


def main():
  directory = pathlib.Path(sys.argv[1])
  host, num_hosts = map(int, sys.argv[2:])
  loaders = make_loaders(directory)
  for line in sys.stdin:
    found = [row_digests(made, int(line), host, num_hosts) for made in loaders]
    sys.stdout.write(json.dumps(found) + '\n')
    sys.stdout.flush()


if __name__ == '__main__':
  main()

"""How fast batches come out of the token store, beside seqio's own packing.

  python benchmarks/loader.py > loader.json
  python benchmarks/loader.py --data DIR --vocab MODEL > loader.json

Without --data the bundled sample corpus is read. Three questions:

  throughput  packed batches from the store, from `seqio.get_dataset` with
              pack=True, and from the latter with everything tokenised ahead and
              held in memory; they take turns in this process
  fill        how many positions carry tokens: packed, unpacked, in buckets
  start       a fresh process: seconds to the first batch, and memory after
              many, also with a made-up store of ten million examples

Prints JSON; what it is doing goes to the standard error.
"""

import argparse
from collections.abc import Iterator
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np

from hypergrid_jax.data import (
  loader,
  sampling,
  token_files,
  token_requests,
  tokens,
)
from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.runs import datasets, directory
from hypergrid_jax.tasks import vocabularies

# The made-up examples pass for those of a task; its token directory is its own.
SYNTHETIC = token_requests.TokenRequest(
  'glue_sst2', 'train', 'sample', 'sample', (512, 62)
)
BUCKETS = (32, 64, 128, 256, 512)
WARM_UP_SECONDS = 1.0  # of each turn: uses up what was built in between
Batches = Iterator[tuple[int, int, int]]  # rows, examples, tokens of a batch


def say(text: str) -> None:
  """Tells what is going on."""
  sys.stderr.write(f'{text}\n')


def data_config(options, **changes) -> DataConfig:
  """The mixture that is measured."""
  return DataConfig(
    mixture=options.mixture,
    source=f'files:{options.data}' if options.data else 'sample',
    vocabulary=options.vocab or 'sample',
    missing_train='skip',
    batch_size=options.rows,
    **changes,
  )


def open_corpus(data: DataConfig, scratch: str) -> datasets.Corpus:
  """Opens the data as a run does."""
  return datasets.open_corpus(
    data,
    vocabularies.load_vocabulary(data.vocabulary),
    token_dir=pathlib.Path(scratch, 'tokens'),
  )


def make_loader(data: DataConfig, stores) -> loader.Loader:
  """Makes the loader as a run does."""
  sizes = {name: store.num_examples for name, store in stores.items()}
  return loader.Loader(
    stores,
    task_ids={name: number for number, name in enumerate(stores)},
    rates=sampling.mixing_rates(sizes, data),
    batch_size=data.batch_size,
    row_lengths=data.row_lengths,
    max_segments=data.segments,
    seed=0,
    packed=data.pack,
    length_buckets=data.length_buckets,
  )


def ours(made: loader.Loader) -> Batches:
  """Batches from the store, one after the other, without end."""
  n = 0
  while True:
    batch = made.batch(n)
    n += 1
    yield (
      len(batch.task_ids),
      int(batch.encoder_segment_ids.max(axis=1).sum()),
      int((batch.encoder_segment_ids > 0).sum())
      + int((batch.decoder_segment_ids > 0).sum()),
    )


def take_turns(
  batches: dict[str, Batches], *, turns: int, seconds: float
) -> dict[str, list[dict[str, float]]]:
  """Measures each in its turn; returns rates per second."""
  measured: dict[str, list[dict[str, float]]] = {name: [] for name in batches}
  for turn in range(turns):
    for name, iterator in batches.items():
      settle()
      read(iterator, WARM_UP_SECONDS)
      rates = read(iterator, seconds)
      measured[name].append(rates)
      say(f'turn {turn + 1}: {name} {rates["rows_per_second"]:,.0f} rows/s')
  return measured


def settle() -> None:
  """Waits until the threads of the others have filled their buffers."""
  busy = 1.0
  while busy > 0.05:
    before = time.process_time()
    time.sleep(0.2)
    busy = (time.process_time() - before) / 0.2


def read(batches: Batches, seconds: float) -> dict[str, float]:
  """Reads for so long, and at least one batch."""
  totals = np.zeros(3)
  cpu, began = time.process_time(), time.perf_counter()
  elapsed = 0.0
  while elapsed < seconds:
    totals += next(batches)
    elapsed = time.perf_counter() - began
  rates = (totals / elapsed).tolist()
  return {
    'rows_per_second': rates[0],
    'examples_per_second': rates[1],
    'tokens_per_second': rates[2],
    'cpu_seconds_per_1000_examples': 1e3
    * (time.process_time() - cpu)
    / totals[1],
  }


def spread(values: list[float]) -> dict[str, float]:
  """Median, least and largest."""
  return {
    'median': float(np.median(values)),
    'min': min(values),
    'max': max(values),
  }


def throughput(options, data, stores) -> dict:
  """Measures the three, and how many times faster the store is."""
  from others import seqio_batches  # loads TensorFlow

  mixture = seqio_batches.make_mixture(data, stores)
  say('tokenising into the cache of seqio')
  with tempfile.TemporaryDirectory() as cache:
    seqio_batches.write_cache(mixture, pathlib.Path(cache))
    batches = {
      'store': ours(make_loader(data, stores)),
      'seqio_uncached': seqio_batches.batches(mixture, data, use_cached=False),
      'seqio_in_memory': seqio_batches.batches(mixture, data, use_cached=True),
    }
    # A data set is in memory when it has been read once.
    once = 1.2 * sum(store.num_examples for store in stores.values())
    say('filling the memory of seqio')
    while once > 0:
      once -= next(batches['seqio_in_memory'])[1]
    measured = take_turns(batches, turns=options.turns, seconds=options.seconds)
  result: dict = {
    name: {key: spread([turn[key] for turn in turns]) for key in turns[0]}
    for name, turns in measured.items()
  }
  for other in ('seqio_uncached', 'seqio_in_memory'):
    result[f'store_over_{other}'] = {
      key: result['store'][key]['median'] / result[other][key]['median']
      for key in ('rows_per_second', 'examples_per_second', 'tokens_per_second')
    }
  return result


def fill(options, stores) -> dict:
  """The shares of positions that carry tokens, from the loader's summary."""
  layouts = {
    'packed_512': data_config(options),
    'packed_1024': data_config(options, row_length=1024),
    'unpacked_512': data_config(options, pack=False),
    'bucketed_512': data_config(options, pack=False, length_buckets=BUCKETS),
  }
  result = {}
  for name, data in layouts.items():
    said = make_loader(data, stores).summary(num_steps=10_000)
    result[name] = {
      'encoder': 1 - said['encoder_padding_fraction'],
      'decoder': 1 - said['decoder_padding_fraction'],
      'tokens_per_batch': said['tokens_per_batch'],
      'largest_relative_error_of_rates_in_10000_steps': max(
        abs(task['measured_rate'] / task['rate'] - 1) for task in said['tasks']
      ),
    }
  return result


def build_synthetic(count: int, root: pathlib.Path) -> None:
  """Writes a store of made-up examples with lengths like GLUE's."""
  vocabulary = vocabularies.load_vocabulary(SYNTHETIC.vocabulary)
  mark = token_requests.fingerprint(SYNTHETIC, vocabulary)
  final = SYNTHETIC.directory(root, mark)
  partial = token_files.partial_directory(final)
  writer = token_files.StoreWriter(partial, vocabulary_size=32_128)
  rng = np.random.default_rng(0)
  ids = rng.integers(3, 32_000, 1 << 20).astype(np.uint16)
  text = 'words of a sentence ' * 200
  began = time.perf_counter()
  for first in range(0, count, 1 << 20):
    lengths = np.clip(rng.gamma(2.0, 30.0, 1 << 20), 5, 512).astype(int)
    targets = rng.integers(2, 8, 1 << 20)
    for index in range(first, min(count, first + (1 << 20))):
      length, at = lengths[index - first], index % 1_000_000
      writer.add(
        ids[at : at + length],
        ids[at : at + targets[index - first]],
        {'idx': index, 'inputs_pretokenized': text[: 4 * length]},
      )
  writer.finish(
    {
      'task': SYNTHETIC.task,
      'split': SYNTHETIC.split,
      'counts': {},
      'fingerprint': mark,
    }
  )
  token_files.publish(partial, final)
  say(f'wrote {count:,} examples in {time.perf_counter() - began:.0f} s')


def start(options, spec: str) -> None:
  """What the fresh process does; prints its own JSON."""
  asked = json.loads(spec)
  data = data_config(options, pack=asked['pack'])
  times = {'imported': time.time()}
  if asked['synthetic']:
    root = pathlib.Path(options.scratch, 'synthetic')
    stores = {'synthetic': tokens.open_stores([SYNTHETIC], directory=root)[0]}
  else:
    stores = open_corpus(data, options.scratch).train
  times['stores_open'] = time.time()
  made = make_loader(data, stores)
  times['loader_made'] = time.time()
  made.batch(0)
  times['first_batch'] = time.time()
  batches = asked['batches']
  steps = np.random.default_rng(0).integers(0, 10_000, batches)
  for n in steps.tolist():
    made.batch(n)
  seconds = time.time() - times['first_batch']
  status = pathlib.Path('/proc/self/status').read_text()
  report = {
    'seconds_from_start': {k: t - asked['began'] for k, t in times.items()},
    'rows_per_second_at_random_steps': options.rows * batches / seconds,
    'megabytes': {
      name: int(status.split(f'{name}:')[1].split()[0]) / 1e3
      for name in ('VmHWM', 'VmRSS', 'RssAnon', 'RssFile')
    },
  }
  json.dump(report, sys.stdout)


def fresh_process(options, *, synthetic: bool, pack: bool, batches: int):
  """Starts `start` and returns what it measured."""
  spec = {
    'synthetic': synthetic,
    'pack': pack,
    'batches': batches,
    'began': time.time(),
  }
  command = [sys.executable, __file__, *sys.argv[1:]]
  done = subprocess.run(
    [*command, '--scratch', options.scratch, '--start', json.dumps(spec)],
    stdout=subprocess.PIPE,
    check=True,
  )
  return json.loads(done.stdout)


def start_ups(options) -> dict:
  """Starts a process for each kind of data, three times; the last in full."""
  result = {}
  for name, synthetic, pack in (
    ('corpus', False, True),
    ('synthetic', True, True),
    ('synthetic_unpacked', True, False),
  ):
    if synthetic and not options.synthetic:
      continue
    runs = [
      fresh_process(
        options, synthetic=synthetic, pack=pack, batches=options.batches
      )
      for _ in range(4)
    ]
    firsts = [run['seconds_from_start']['first_batch'] for run in runs]
    result[name] = {
      'seconds_to_first_batch': spread(firsts[1:]),
      'seconds_to_first_batch_before_anything_was_kept': firsts[0],
      'last_run': runs[-1],
    }
    say(f'{name}: first batch after {np.median(firsts[1:]):.2f} s')
  return result


def parse() -> argparse.Namespace:
  """Reads the flags."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--data', help='directory of GLUE and SuperGLUE files')
  parser.add_argument('--vocab', help='SentencePiece model; T5 has its own')
  parser.add_argument('--mixture', default='glue_super_glue')
  parser.add_argument('--rows', type=int, default=128, help='of a batch')
  parser.add_argument('--turns', type=int, default=5, help='0 leaves seqio out')
  parser.add_argument('--seconds', type=float, default=4.0, help='of a turn')
  parser.add_argument('--batches', type=int, default=3000, help='for memory')
  parser.add_argument('--synthetic', type=int, default=10_000_000)
  parser.add_argument('--scratch', help='kept; default: a temporary one')
  parser.add_argument('--start', help=argparse.SUPPRESS)
  return parser.parse_args()


def main() -> None:
  """Measures and prints."""
  options = parse()
  if options.start:
    start(options, options.start)
    return
  with tempfile.TemporaryDirectory() as temporary:
    options.scratch = options.scratch or temporary
    data = data_config(options)
    stores = open_corpus(data, options.scratch).train
    report = {
      'options': {
        name: value
        for name, value in vars(options).items()
        if name not in ('scratch', 'start')
      },
      'versions': directory.versions(),
      'cpus': os.cpu_count(),
      'examples': {name: s.num_examples for name, s in stores.items()},
      'fill': fill(options, stores),
    }
    synthetic = pathlib.Path(options.scratch, 'synthetic')
    if options.synthetic and not synthetic.exists():
      build_synthetic(options.synthetic, synthetic)
    report['start'] = start_ups(options)
    if options.turns:
      report['throughput'] = throughput(options, data, stores)
  json.dump(report, sys.stdout, indent=2)
  sys.stdout.write('\n')


if __name__ == '__main__':
  main()

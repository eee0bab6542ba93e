"""Time from the command to the first step, and what depth costs the compiler.

  python benchmarks/start_up.py [--repeats 3]

Prints JSON: seconds from the start of `hypergrid train` on the tiny model to
the end of its first step, with the token store ready and with none; and those
that XLA takes for the train step of 24 + 24 layers over those for 6 + 6, which
is near 1 where layers are scanned. Medians; the two depths take turns.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax

from hypergrid_jax.config import run_config
from hypergrid_jax.data import assembly
from hypergrid_jax.runs import compiled_step, directory, setup

RUN = 'gin/runs/quickstart.gin'
DEPTHS = (6, 24)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=3)
  options = parser.parse_args()
  compiled = {depth: [] for depth in DEPTHS}
  for _ in range(options.repeats):
    for depth in DEPTHS:
      compiled[depth].append(_compile_seconds(depth))
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    without = _first_step_seconds(folder, 'none')
    ready = [
      _first_step_seconds(folder, str(n)) for n in range(options.repeats)
    ]
  medians = {n: statistics.median(times) for n, times in compiled.items()}
  result = {
    'first_step_seconds': statistics.median(ready),
    'first_step_seconds_all': ready,
    'first_step_seconds_with_tokenising': without,
    'compile_seconds': medians,
    'compile_seconds_all': compiled,
    'compile_ratio_24_over_6': medians[24] / medians[6],
    'devices': [str(device) for device in jax.devices()],
    'versions': directory.versions(),
  }
  print(json.dumps(result, indent=1))


def _compile_seconds(depth: int) -> float:
  """XLA's time for the train step of a T5 with so many layers a stack."""
  run = run_config.parse(
    [RUN],
    [
      f'T5Config.num_layers={depth}',
      f'T5Config.num_decoder_layers={depth}',
      'HyperGrid.layers=all',
    ],
  )
  built = setup.build(run, 1000, num_tasks=16)
  data = run.data
  batch = assembly.empty_batch(data.batch_size, data.row_lengths, data.segments)
  with jax.set_mesh(built.mesh):
    lowered = compiled_step.trace_step(built, batch).lower()
    start = time.perf_counter()
    lowered.compile()
  return time.perf_counter() - start


def _first_step_seconds(folder: pathlib.Path, name: str) -> float:
  """From starting the command to the line of the first step."""
  model_dir = folder / name
  start = time.perf_counter()
  process = subprocess.Popen(
    [
      sys.executable,
      '-m',
      'hypergrid_jax',
      'train',
      f'--gin_file={RUN}',
      f'--model_dir={model_dir}',
      f'--token_dir={folder / "tokens"}',
      'train.log_period=1',
    ],
    stdout=subprocess.DEVNULL,
  )
  log = model_dir / 'metrics.jsonl'
  while not (log.exists() and log.stat().st_size):
    if process.poll() is not None:
      raise RuntimeError(f'the command ended with {process.returncode}')
    time.sleep(0.01)
  seconds = time.perf_counter() - start
  process.terminate()
  process.wait()
  return seconds


if __name__ == '__main__':
  main()

"""Runs the benchmarks and makes the pages of figures from what they print.

  python benchmarks/run.py                  all that can run here
  python benchmarks/run.py train_step decode

Each one's JSON goes to benchmarks/results/ when it has ended; what cannot run
here is left out, with the reason, and so is its old result's replacement.
"""

import argparse
import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys

import tables
import tables_tpu

from hypergrid_jax import files

FOLDER = pathlib.Path(__file__).parent
DATA, VOCAB = 'HYPERGRID_REAL_DATA', 'HYPERGRID_VOCAB'
TORCH_PYTHON = 'HYPERGRID_TORCH_PYTHON'


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """One run of a script.

  Attributes:
    name: of its result.
    script: its file, without `.py`.
    arguments: for the script; `$NAME` is taken from the environment.
    packages: that have to be installed.
    keeps: the script writes its results itself, and prints them for people.
  """

  name: str
  script: str
  arguments: tuple[str, ...] = ()
  packages: tuple[str, ...] = ()
  keeps: bool = False

  def missing(self) -> str | None:
    """Why it cannot run here; None when it can."""
    for argument in self.arguments:
      if argument.startswith('$') and argument[1:] not in os.environ:
        return f'{argument[1:]} is not set'
    for package in self.packages:
      if importlib.util.find_spec(package) is None:
        return f'{package} is not installed'
    return None

  def run(self) -> None:
    """Runs it and keeps what it prints."""
    arguments = [
      os.environ[argument[1:]] if argument.startswith('$') else argument
      for argument in self.arguments
    ]
    done = subprocess.run(
      [sys.executable, str(FOLDER / f'{self.script}.py'), *arguments],
      stdout=None if self.keeps else subprocess.PIPE,
      check=True,
      text=True,
    )
    if not self.keeps:
      path = tables.RESULTS / f'{self.name}.json'
      files.write_text(path, [done.stdout])


BENCHMARKS = (
  Benchmark('gated_matmul', 'gated_matmul'),
  Benchmark('train_step', 'train_step'),
  Benchmark(
    'train_step_methods',
    'train_step',
    ('--methods', 'all', '--rows', '4', '--turns', '5'),
  ),
  Benchmark('decode', 'decode'),
  Benchmark(
    'peers',
    'peers',
    (
      *('--data', f'${DATA}'),
      *('--vocab', f'${VOCAB}'),
      *('--torch_python', f'${TORCH_PYTHON}'),
    ),
  ),
  Benchmark('loader', 'loader', ('--data', f'${DATA}', '--vocab', f'${VOCAB}')),
  Benchmark('start_up', 'start_up'),
  Benchmark('precompile', 'precompile', packages=('libtpu',), keeps=True),
  Benchmark(
    'gated_matmul_tpu', 'gated_matmul_tpu', packages=('libtpu',), keeps=True
  ),
  Benchmark(
    'train_step_tpu', 'train_step_tpu', packages=('libtpu',), keeps=True
  ),
)


def main() -> None:
  """Runs what was asked for, and makes the page."""
  names = [benchmark.name for benchmark in BENCHMARKS]
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('names', nargs='*', metavar='NAME', help=', '.join(names))
  chosen = parser.parse_args().names or names
  for unknown in set(chosen) - set(names):
    parser.error(f'{unknown} is none of {", ".join(names)}')
  for benchmark in BENCHMARKS:
    if benchmark.name not in chosen:
      continue
    if reason := benchmark.missing():
      print(f'{benchmark.name}: left out, {reason}')
      continue
    print(f'{benchmark.name}: running', flush=True)
    benchmark.run()
  tables.main()
  tables_tpu.main()


if __name__ == '__main__':
  main()

"""What published T5 sizes take on TPU slices, with HyperGrid and without.

  python benchmarks/precompile.py            compiles what is not there yet
  python benchmarks/precompile.py --table    prints the table as Markdown

Every cell is one `hypergrid precompile --quick` of 128 packed rows of 512
tokens, in a process of its own. It is kept in benchmarks/results/ at once, so
that a stopped run goes on. The numbers are the compiler's; nothing is measured
on a TPU.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

from hypergrid_jax import files

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / 'benchmarks' / 'results' / 'precompile.json'
GIB = 2**30

MODELS = {'base': 'base', 'large': 'large', '3b': '3B', '11b': '11B'}
# Slices, with the file of the mesh and the HyperGrid that is fast there.
SLICES = {
  'v5e-8': ('v5e_8', 'hypergrid_v5'),
  'v5e-256': ('v5e_256', 'hypergrid_v5'),
  'v4-128': ('v4_128', 'hypergrid_v5'),
  'v5p-128': ('v5p_128', 'hypergrid_v5'),
  'v6e-64': ('v6e_64', 'hypergrid_v6e'),
}
METHODS = ('hypergrid', 'plain')
# On eight chips, what the larger sizes need to fit.
SETTINGS = {
  ('large', 'v5e-8'): ('train.microbatches=2',),
  ('3b', 'v5e-8'): ('T5Config.remat_policy=full', 'train.microbatches=2'),
}
BINDINGS = (
  'T5Config.remat_policy=minimal',
  'data.batch_size=128',
  'data.row_length=512',
  'data.row_targets_length=128',
  'data.vocabulary=sample',  # not read: the models say their vocabularies' size
  'evaluate.batch_size=128',
  'train.num_steps=262144',
)
# The process sometimes dies in the compiler.
ATTEMPTS = 2
TIMEOUT = 1800  # seconds


def main() -> int:
  """Compiles, or prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--table', action='store_true')
  parser.add_argument('--models', default=','.join(MODELS))
  parser.add_argument('--slices', default=','.join(SLICES))
  options = parser.parse_args()
  if not options.table:
    cells = itertools.product(
      options.slices.split(','), options.models.split(','), METHODS
    )
    for slice_, model, method in cells:
      compile_cell(model, method, slice_)
  print(table(results()))
  return 0


def results() -> dict:
  """All cells that are there, by name."""
  return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def compile_cell(model: str, method: str, slice_: str) -> None:
  """Compiles one cell, unless it is there, and keeps it."""
  name = f'{model}-{method}-{slice_}'
  if name in results():
    return
  with tempfile.TemporaryDirectory() as directory:
    file = pathlib.Path(directory) / 'cell.json'
    failed = _compile(model, method, slice_, file)
    if failed:
      print(name, failed)
      return
    cells = {**results(), name: json.loads(file.read_text())}
  RESULTS.parent.mkdir(exist_ok=True)
  files.write_text(RESULTS, json.dumps(cells, indent=1) + '\n')
  fits = cells[name]['train']['fits']
  print(name, 'fits' if fits else 'does not fit', flush=True)


def _compile(model, method, slice_, file) -> str:
  """Has one cell written to a file; returns what went wrong."""
  mesh, gated = SLICES[slice_]
  names = (
    f'models/t5_1_0_{model}',
    f'methods/{gated if method == "hypergrid" else "plain"}',
    'mixtures/glue_super_glue',
    f'partitioning/{mesh}',
  )
  command = [
    *(sys.executable, '-m', 'hypergrid_jax', 'precompile', '--quick'),
    *(f'--gin_file=gin/{name}.gin' for name in names),
    f'--topology={slice_}',
    '--program=train',
    f'--json={file}',
    *BINDINGS,
    *SETTINGS.get((model, slice_), ()),
  ]
  for _ in range(ATTEMPTS):
    done = subprocess.run(
      command, cwd=ROOT, timeout=TIMEOUT, capture_output=True, text=True
    )
    if file.exists():
      return ''
  return f'failed with {done.returncode}: {done.stderr[-2000:]}'


def table(cells: dict) -> str:
  """The cells as Markdown: HyperGrid's numbers, and its ratios to plain."""
  lines = [
    '| model | slice | mesh | HBM per chip, GiB | FLOPs per step | of analytic'
    ' | sent per chip, GiB | HBM, FLOPs, sent: HyperGrid / plain |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for model, slice_ in itertools.product(MODELS, SLICES):
    pair = [cells.get(f'{model}-{method}-{slice_}') for method in METHODS]
    if pair[0] is not None:
      lines.append(_row(model, slice_, *pair))
  return '\n'.join(lines)


def summary(cells: dict) -> str:
  """HyperGrid's memory per chip as Markdown: a line for each size."""
  lines = [
    f'| GiB per chip | {" | ".join(SLICES)} |',
    f'|---|{"---:|" * len(SLICES)}',
  ]
  for model, name in MODELS.items():
    found = [cells.get(f'{model}-hypergrid-{slice_}') for slice_ in SLICES]
    sizes = [
      _size(cell, model, s) for cell, s in zip(found, SLICES, strict=True)
    ]
    lines.append(f'| {name} | {" | ".join(sizes)} |')
  return '\n'.join(lines)


def _size(cell, model, slice_) -> str:
  if cell is None:
    return ''
  if not cell['train']['fits']:
    return 'too large'
  changed = ' *' if (model, slice_) in SETTINGS else ''
  return f'{cell["train"]["needed"] / GIB:.2f}{changed}'


def _row(model, slice_, gated, plain) -> str:
  mesh = ' x '.join(
    f'{axis} {size}' for axis, size in gated['mesh'].items() if size > 1
  )
  extra = [
    binding.split('.')[1] for binding in SETTINGS.get((model, slice_), ())
  ]
  start = f'| {MODELS[model]} | {slice_} | {", ".join([mesh, *extra])} |'
  if not gated['train']['fits']:
    return f'{start} does not fit | | | | {_advice(gated)} |'
  train = gated['train']
  flops = train['costs']['flops'] * gated['devices']
  ratios = ''
  if plain is not None and plain['train']['fits']:
    other = plain['train']
    ratios = ', '.join(
      f'{a / b:.2f}'
      for a, b in (
        (train['needed'], other['needed']),
        (train['costs']['flops'], other['costs']['flops']),
        (_sent(train), _sent(other)),
      )
    )
  return (
    f'{start} {train["needed"] / GIB:.2f} | {flops:.3g}'
    f' | {flops / gated["analytic_flops"]["total"]:.4f}'
    f' | {_sent(train) / GIB:.2f} | {ratios} |'
  )


def _sent(train) -> int:
  return sum(one['sent'] for one in train['collectives'])


def _advice(cell) -> str:
  fitting = [one for one in cell['advice'] if one['fits']]
  if not fitting:
    return 'nothing that was tried fits'
  best = min(fitting, key=lambda one: one['measures']['roofline']['seconds'])
  settings = ', '.join(f'{k}={v}' for k, v in best['bindings'].items())
  return f'fits with {settings}: {best["measures"]["needed"] / GIB:.2f} GiB'


if __name__ == '__main__':
  sys.exit(main())

"""What uncertainty sampling adds to a train step, on this machine.

  python benchmarks/uncertainty.py > uncertainty.json
  python benchmarks/uncertainty.py --per_task 2 4 24 data.pack=False

CA-MTL on the bundled corpus with the quickstart's sizes: a step on rows drawn
at the rates of the mixture, a step that chooses as many rows among candidates,
and the choice by itself take turns, so that whatever else the machine does hits
them alike. Bindings are added to the run. Prints JSON: for every number of
candidates per task the medians and quartiles in milliseconds, the median ratio
of a step to its neighbour without the choice, and what the matrix products of
the two programs, counted in them, would make of that ratio.
"""

import argparse
from collections.abc import Callable
import json
import statistics
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from rich.console import Console

from hypergrid_jax.config import run_config
from hypergrid_jax.runs import batches, compiled_step, directory
from hypergrid_jax.runs import setup as setup_lib
from hypergrid_jax.training import state

GIN = ('gin/runs/quickstart.gin', 'gin/methods/ca_mtl_base.gin')
SAMPLER = 'gin/samplers/uncertainty.gin'
WARM_UP = 2  # turns that are not counted


def set_up(token_dir: str, gin_files, bindings) -> setup_lib.Setup:
  """Opens the corpus and builds the model."""
  run = run_config.parse(gin_files, bindings, {'token_dir': token_dir})
  console = Console(stderr=True)
  return setup_lib.set_up(run, token_dir, console=console, train=True)


def prepare(setup: setup_lib.Setup):
  """Returns what runs a step, what chooses its rows, and the FLOPs."""
  loader = batches.make_loader(setup.run, setup.corpus)
  key = jax.random.key(0)
  with jax.set_mesh(setup.mesh):
    traced = compiled_step.trace_steps(setup, loader)
    program = compiled_step.compile_traced(setup, traced)
    current = state.create_state(
      setup.model, setup.tx, key, setup.mesh, setup.run.mesh.axis_rules()
    )
  selector = batches.make_selector(
    setup.run, setup.model, loader.tasks, setup.corpus.vocabulary
  )
  choose = selector and jax.jit(selector)

  def batch(number):
    return program.rows.place(loader.batch(number))

  def step(number):
    nonlocal current
    with jax.set_mesh(setup.mesh):
      current, metrics = program.step(current, batch(number), key)
    return metrics

  def select(number):
    with jax.set_mesh(setup.mesh):
      return choose(current.params, batch(number), key)

  return step, choose and select, compiled_step.step_flops(traced)


def milliseconds(function: Callable[[int], Any], number: int) -> float:
  """Calls, waits, and says how long that took."""
  began = time.perf_counter()
  jax.block_until_ready(function(number))
  return 1e3 * (time.perf_counter() - began)


def quartiles(values: list[float]) -> dict[str, float]:
  """Of times in milliseconds."""
  found = np.percentile(values, (25, 50, 75)).round(2).tolist()
  return dict(zip(('quartile_1', 'median', 'quartile_3'), found, strict=True))


def measure(plain, sampled, turns: int) -> dict[str, Any]:
  """Times the two steps and the choice in turns."""
  kinds = {'step': sampled[0], 'plain': plain[0], 'choice': sampled[1]}
  times: dict[str, list[float]] = {kind: [] for kind in kinds}
  for number in range(WARM_UP + turns):
    order = list(kinds) if number % 2 else list(kinds)[::-1]
    for kind in order:
      times[kind].append(milliseconds(kinds[kind], number))
  times = {kind: values[WARM_UP:] for kind, values in times.items()}
  ratios = [
    step / plain
    for step, plain in zip(times['step'], times['plain'], strict=True)
  ]
  flops, before = sampled[2], plain[2]['step']
  return {
    'milliseconds': {kind: quartiles(v) for kind, v in times.items()},
    'step_over_plain': round(statistics.median(ratios), 3),
    'flops_over_plain': round(flops['step'] / before, 3),
    'gigaflops': {
      'plain': round(before / 1e9, 2),
      'choice': round(flops['selection'] / 1e9, 2),
    },
  }


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--per_task', type=int, nargs='+', default=[2, 4])
  parser.add_argument('--turns', type=int, default=9)
  parser.add_argument('--token_dir')
  parser.add_argument('bindings', nargs='*')
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as made:
    token_dir = options.token_dir or made
    plain = prepare(set_up(token_dir, GIN, options.bindings))
    found = {}
    for count in options.per_task:
      binding = f'UncertaintySampling.candidates_per_task={count}'
      setup = set_up(token_dir, (*GIN, SAMPLER), [*options.bindings, binding])
      found[count] = measure(plain, prepare(setup), options.turns)
  report = {
    'options': vars(options),
    'device': str(jax.devices()[0]),
    'versions': directory.versions(),
    'candidates_per_task': found,
  }
  json.dump(report, sys.stdout, indent=2)
  sys.stdout.write('\n')


if __name__ == '__main__':
  main()

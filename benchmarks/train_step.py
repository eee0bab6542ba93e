"""How long a method's train step takes beside plain T5's, on this machine.

  python benchmarks/train_step.py > train_step.json
  python benchmarks/train_step.py --methods all > train_step_methods.json

Methods are named after their files in gin/methods, and what those freeze is
frozen; `hypergrid_naive` gates a weight for every example. All models are built
with the same sizes and take turns with plain T5 on the same packed rows; with
many methods, a few at a time. Prints JSON: spreads of each in milliseconds, its
ratio to plain T5, and what the compiled step does: FLOPs of matrix products
and an estimate of the bytes it moves. `conditioning` is what of the step the
`condition` point takes by itself, forward and backward, in both stacks: the
generation of all adapters in HyperFormer.

On a GPU, with --torch_python naming a Python that has PyTorch and transformers:

  python benchmarks/train_step.py --model t5_1_0_base --dtype bfloat16 \
    --peak_tflops 989 --torch_python /venv/bin/python > train_step_gpu.json

then transformers' T5, compiled by torch.compile, takes its turns too, on rows
of the same sizes, and the utilisation is the model's FLOPs over the peak's.
"""

import argparse
import contextlib
import functools
from typing import Any

import jax
import measuring
import models
from others import torch_worker

from hypergrid_jax.precompiling import analytic, hlo_costs, hlo_text

TORCH = 'transformers'
AT_ONCE = 4  # methods beside plain T5, each with its own parameters


def parse_options() -> argparse.Namespace:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  models.add_sizes(parser)
  for name, default in (
    ('rows', 8),
    ('length', 512),
    ('segments', 16),
    ('turns', 9),
    ('naive_turns', 3),
    ('seconds', 600),  # of a group of methods; then it ends with its turn
  ):
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument(
    '--methods',
    nargs='+',
    default=['hypergrid', models.NAIVE],
    help="names, or 'all'",
  )
  parser.add_argument('--peak_tflops', type=float, help="of the device's dtype")
  parser.add_argument('--torch_python', help='has PyTorch and transformers')
  return parser.parse_args()


def measure(methods: list[str], options, worker) -> dict[str, Any]:
  """Plain T5 and some methods in turns; by name, what was measured."""
  batch = models.packed_rows(
    options.rows,
    options.length,
    options.segments,
    models.settings(models.PLAIN, options).model.vocab_size,
    options.num_tasks,
  )
  steps, made, turns, conditions = {}, {}, {}, {}
  for name in (models.PLAIN, *methods):
    measuring.say(f'compiling {name}')
    config = models.settings(name, options)
    steps[name] = models.train_step(name, config, options.num_tasks, [batch])
    made[name] = facts(steps[name], config, options)
    turns[name] = functools.partial(steps[name], batch)
    condition = models.conditioning_gradient(steps[name].model, batch)
    conditions[name] = lambda one=steps[name], run=condition: run(
      one.state.params
    )
  if worker is not None:
    turns[TORCH] = worker.train_step(
      models.settings(models.PLAIN, options).model,
      rows=options.rows,
      lengths=(options.length, options.length // models.DECODER_SHARE),
      dtype=options.dtype,
    )
  measuring.say(f'measuring {", ".join(turns)}')
  fewer = {models.NAIVE: options.naive_turns}
  times = measuring.take_turns(
    turns, options.turns, fewer=fewer, seconds=options.seconds
  )
  found = measuring.compared(times, models.PLAIN)
  alone = measuring.take_turns(conditions, measuring.LEAST_TURNS)
  for name, one in found.items():
    one |= made.get(name, {})
    if name in conditions:
      one['conditioning'] = measuring.spread(alone[name].wall)
    if options.peak_tflops:
      flops = made[models.PLAIN]['model_flops']
      seconds = 1e-3 * one['milliseconds']['median']
      used = flops / seconds / (1e12 * options.peak_tflops)
      one['model_flops_utilisation'] = round(used, 4)
  return found


def facts(step: models.TrainStep, config, options) -> dict[str, Any]:
  """What a compiled step does."""
  lengths = options.length, options.length // models.DECODER_SHARE
  flops = analytic.training_flops(
    config.model, rows=options.rows, row_lengths=lengths
  )
  (compiled,) = step.compiled.values()
  found = {'model_flops': flops.model}
  with contextlib.suppress(ValueError):  # not every backend's text is known
    costs = hlo_costs.costs(hlo_text.parse(compiled.as_text()))
    found |= {'matmul_flops': costs.matmul_flops, 'bytes': costs.bytes}
  return found


def main() -> None:
  """Measures and prints."""
  options = parse_options()
  methods = options.methods
  if methods == ['all']:
    methods = list(models.METHODS)
  begun = measuring.machine()
  groups = []
  with contextlib.ExitStack() as stack:
    worker = None
    if options.torch_python:
      worker = stack.enter_context(torch_worker.Worker(options.torch_python))
      begun['versions'] |= worker.versions
    for first in range(0, len(methods), AT_ONCE):
      chosen = methods[first : first + AT_ONCE]
      groups.append(measure(chosen, options, worker))
      jax.clear_caches()
  measuring.write({'options': vars(options), **begun, 'groups': groups})


if __name__ == '__main__':
  main()

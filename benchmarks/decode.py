"""How long greedy decoding takes with HyperGrid beside plain T5, here.

  python benchmarks/decode.py > decode.json

Decodes as `hypergrid eval` and `predict` do, encoder included: rows of one
example each, with a cache of keys and values. The models have random weights,
the same but for the gates; the end of sequence is made unlikely, so that every
row runs to its full length. Prints JSON: for every shape the spread of each in
milliseconds and HyperGrid's ratio to plain T5.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import measuring
import models
import numpy as np

from hypergrid_jax.model import decoding

# Rows, tokens of an input, tokens written.
SHAPES = (
  (64, 32, 8),
  (64, 64, 8),
  (64, 128, 8),
  (8, 64, 8),
  (8, 512, 8),
  (16, 64, 64),
)


def variant(method: str, shape: tuple[int, int, int], options):
  """Returns a function that decodes random inputs of a shape."""
  rows, length, written = shape
  config = models.settings(method, options)
  model = models.build(config, options.num_tasks)
  params = models.endless_parameters(model)
  rng = np.random.default_rng(0)
  tokens = rng.integers(2, config.model.vocab_size, (rows, length), np.int32)
  task_ids = (np.arange(rows) % options.num_tasks).astype(np.int32)
  with models.implementation_of(method):
    decode = jax.jit(
      functools.partial(
        decoding.greedy_decode, model, max_decode_length=written
      )
    ).lower(params, tokens, task_ids)
  decode = decode.compile()
  found = np.asarray(decode(params, tokens, task_ids))
  if (found == decoding.EOS_ID).any():
    raise RuntimeError(f'{method}: a row ended early, the times would differ')
  return functools.partial(decode, params, jnp.asarray(tokens), task_ids)


def parse_options() -> argparse.Namespace:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  models.add_sizes(parser)
  parser.add_argument('--turns', type=int, default=15)
  parser.add_argument('--naive_turns', type=int, default=3)
  parser.add_argument('--seconds', type=int, default=120, help='of a shape')
  parser.add_argument('--methods', nargs='+', default=['hypergrid'])
  parser.add_argument(
    '--shapes',
    nargs='+',
    type=lambda text: tuple(map(int, text.split('x'))),
    default=SHAPES,
    help='rows x tokens x tokens written, such as 64x32x8',
  )
  return parser.parse_args()


def main() -> None:
  """Measures and prints."""
  options = parse_options()
  begun = measuring.machine()
  found = []
  for shape in options.shapes:
    rows, length, written = shape
    measuring.say(f'{rows} rows of {length} tokens, {written} written')
    turns = {
      name: variant(name, shape, options)
      for name in (models.PLAIN, *options.methods)
    }
    times = measuring.take_turns(
      turns,
      options.turns,
      fewer={models.NAIVE: options.naive_turns},
      seconds=options.seconds,
    )
    found.append(
      {
        'rows': rows,
        'length': length,
        'written': written,
        'variants': measuring.compared(times, models.PLAIN),
      }
    )
  measuring.write({'options': vars(options), **begun, 'shapes': found})


if __name__ == '__main__':
  main()

"""How long a HyperGrid train step takes beside plain T5's, on this machine.

  python benchmarks/train_step.py > train_step.json

Both models are built with the same sizes and take turns on the same packed
rows, so that whatever else the machine does hits both alike. Prints JSON:
median and quartiles of each in milliseconds, and the ratio of the medians.
"""

import argparse
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from hypergrid_jax import optim, run_directory, train, types
from hypergrid_jax.methods.hypergrid import HyperGridConfig
from hypergrid_jax.model import Model
from hypergrid_jax.state import TrainState
from hypergrid_jax.t5_config import T5Config

DECODER_SHARE = 4  # encoder tokens per decoder token, as in packed GLUE rows


def packed_rows(rows: int, length: int, segments: int, vocab: int):
  """Rows of equally long segments with random tokens."""
  rng = np.random.default_rng(0)

  def side(length):
    ids = 1 + np.arange(length) * segments // length
    return np.tile(ids, (rows, 1)).astype(np.int32)

  def tokens(length):
    return rng.integers(2, vocab, (rows, length)).astype(np.int32)

  encoder, decoder = side(length), side(length // DECODER_SHARE)
  starts = [np.flatnonzero(encoder[0] == s + 1)[0] for s in range(segments)]
  return types.Batch(
    encoder_input_tokens=tokens(length),
    encoder_segment_ids=encoder,
    encoder_positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    encoder_segment_starts=np.tile(np.array(starts, np.int32), (rows, 1)),
    decoder_input_tokens=tokens(decoder.shape[1]),
    decoder_target_tokens=tokens(decoder.shape[1]),
    decoder_segment_ids=decoder,
    decoder_positions=np.zeros_like(decoder),
    decoder_loss_weights=np.ones(decoder.shape, np.float32),
    task_ids=np.zeros(rows, np.int32),
  )


def prepare(config: T5Config, method: HyperGridConfig | None, batch):
  """Returns a function that does one step and waits for it."""
  model = Model(config, method and method.extension_points())
  tx = optim.make_optimizer(
    optim.Adafactor(),
    optim.Constant(1e-3),
    logical_axes=model.logical_axes,
    added=model.added,
  )
  params = model.init(jax.random.key(0))
  state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
  step = jax.jit(
    train.make_train_step(model, tx, train.TrainConfig(num_steps=1)),
    donate_argnums=0,
  )
  key = jax.random.key(1)

  def run() -> float:
    nonlocal state
    began = time.perf_counter()
    state, metrics = step(state, batch, key)
    jax.block_until_ready((state, metrics))
    return 1e3 * (time.perf_counter() - began)

  run()  # compiles
  return run


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  for name, default in (
    ('d_model', 512),
    ('d_ff', 2048),
    ('num_heads', 8),
    ('num_layers', 6),
    ('rows', 8),
    ('length', 512),
    ('segments', 16),
    ('vocab_size', 32128),
    ('grid_rows', 8),
    ('grid_cols', 8),
    ('repeats', 7),
  ):
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--dtype', default='float32')
  options = parser.parse_args()
  config = T5Config(
    d_model=options.d_model,
    d_ff=options.d_ff,
    num_heads=options.num_heads,
    d_kv=options.d_model // options.num_heads,
    num_layers=options.num_layers,
    num_decoder_layers=options.num_layers,
    vocab_size=options.vocab_size,
    dropout_rate=0.0,
    dtype=options.dtype,
  )
  batch = packed_rows(
    options.rows, options.length, options.segments, options.vocab_size
  )
  method = HyperGridConfig(
    grid_rows=options.grid_rows, grid_cols=options.grid_cols
  )
  variants = {
    'plain': prepare(config, None, batch),
    'hypergrid': prepare(config, method, batch),
  }
  times: dict[str, list[float]] = {name: [] for name in variants}
  for _ in range(options.repeats):
    for name, run in variants.items():
      times[name].append(run())
  medians = {name: float(np.median(values)) for name, values in times.items()}
  report = {
    'options': vars(options),
    'device': str(jax.devices()[0]),
    'versions': run_directory.versions(),
    'milliseconds': {
      name: dict(
        zip(
          ('quartile_1', 'median', 'quartile_3'),
          np.percentile(values, (25, 50, 75)).round(2).tolist(),
          strict=True,
        )
      )
      for name, values in times.items()
    },
    'hypergrid_over_plain': round(medians['hypergrid'] / medians['plain'], 4),
  }
  json.dump(report, sys.stdout, indent=2)
  sys.stdout.write('\n')


if __name__ == '__main__':
  main()

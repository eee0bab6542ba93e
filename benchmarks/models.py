"""Models, states and batches that several benchmarks measure."""

import argparse
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import pathlib
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from hypergrid_jax import types
from hypergrid_jax.comparing import step_times
from hypergrid_jax.config import run_config
from hypergrid_jax.methods import hypergrid
from hypergrid_jax.model import Model, decoding, extension
from hypergrid_jax.ops import relu_dropout
from hypergrid_jax.training import freezing, loop, optimizers
from hypergrid_jax.training.state import TrainState

ROOT = pathlib.Path(__file__).parent.parent
PLAIN = 'plain'
# HyperGrid with a gated weight for every example: how it is done naively.
NAIVE = 'hypergrid_naive'
METHODS = tuple(
  sorted(
    path.stem
    for path in (ROOT / 'gin' / 'methods').glob('*.gin')
    if path.stem != PLAIN
  )
)
DECODER_SHARE = 4  # encoder tokens per decoder token


def add_sizes(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for a model's sizes; the defaults are T5 small's."""
  for name, default in (
    ('d_model', 512),
    ('d_ff', 2048),
    ('num_heads', 8),
    ('num_layers', 6),
    ('vocab_size', 32128),
    ('num_tasks', 8),
    ('grid_rows', None),  # HyperGrid's; the file's if not given
    ('grid_cols', None),
  ):
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--dtype', default='float32')
  parser.add_argument(
    '--model', help='a file of gin/models in place of the sizes'
  )


def settings(method: str, options: argparse.Namespace) -> run_config.RunConfig:
  """The run of a method's file with the sizes of the command line."""
  files = [ROOT / 'gin' / 'methods' / f'{_file_of(method)}.gin']
  sizes = {'dropout_rate': 0.0, 'dtype': options.dtype}
  if options.model:
    files.append(ROOT / 'gin' / 'models' / f'{options.model}.gin')
  else:
    sizes |= {
      'd_model': options.d_model,
      'd_ff': options.d_ff,
      'num_heads': options.num_heads,
      'd_kv': options.d_model // options.num_heads,
      'num_layers': options.num_layers,
      'num_decoder_layers': options.num_layers,
      'vocab_size': options.vocab_size,
    }
  bindings = [f'T5Config.{name}={value}' for name, value in sizes.items()]
  for name in ('grid_rows', 'grid_cols'):
    value = getattr(options, name)
    if value is not None and method.startswith('hypergrid'):
      bindings.append(f'HyperGrid.{name}={value}')
  fixed = ['train.num_steps=1', 'data.mixture=glue', 'data.vocabulary=sample']
  return run_config.parse(list(map(str, files)), [*fixed, *bindings])


def build(config: run_config.RunConfig, num_tasks: int) -> Model:
  """The model of a run."""
  points = extension.of_methods(config.method)
  return Model(config.model, points, num_tasks=num_tasks)


def endless_parameters(model: Model) -> types.Params:
  """Random parameters with gates that differ, which never end a sequence.

  The logit of the end of sequence is 0, for models whose output is tied to the
  embedding; the largest of the others is above.
  """
  params = jax.jit(model.init)(jax.random.key(0))
  keys = iter(jax.random.split(jax.random.key(1), len(model.added) + 1))

  def draw(path, leaf):
    if '/'.join(key.key for key in path) not in model.added:
      return leaf
    return 0.05 * jax.random.normal(next(keys), leaf.shape, leaf.dtype)

  params = jax.tree_util.tree_map_with_path(draw, params)
  table = params['token_embedder']['embedding'].at[decoding.EOS_ID].set(0.0)
  return {**params, 'token_embedder': {'embedding': table}}


@contextlib.contextmanager
def implementation_of(method: str) -> Iterator[None]:
  """While a naive variant is traced, gates the weights of every example."""
  with contextlib.ExitStack() as stack:
    if method == NAIVE:
      stack.enter_context(
        mock.patch.object(hypergrid, 'gated_matmul', weight_per_example)
      )
    yield


@functools.partial(
  jax.checkpoint, static_argnums=(5,), policy=None, prevent_cse=False
)
def _weight_per_example(u, kernel, row, col, gate, segments):
  """Recomputed in the backward pass, as all layers' weights fit no memory."""
  offset, scale = gate
  shape = (u.shape[0], segments)
  row = jnp.broadcast_to(row, (*shape, row.shape[-1]))
  col = jnp.broadcast_to(col, (*shape, col.shape[-1]))
  factor = offset + scale * jax.nn.sigmoid(
    row[..., :, None] * col[..., None, :]
  )
  factor = jnp.repeat(factor, kernel.shape[0] // row.shape[2], axis=2)
  factor = jnp.repeat(factor, kernel.shape[1] // col.shape[2], axis=3)
  y = jnp.einsum(
    'bslk,bskn->bsln',
    u.reshape(*shape, -1, u.shape[2]),
    (factor * kernel[None, None]).astype(u.dtype),
  )
  return y.reshape(*u.shape[:2], -1)


def weight_per_example(
  u,
  kernel,
  row,
  col,
  segment_ids,
  *,
  scale,
  offset,
  **others,
):
  """`gated_matmul` for rows of equally long segments, done naively."""
  del segment_ids, others
  if isinstance(u, relu_dropout.ReluDropout):
    u = u.value()
  segments = max(row.shape[1], col.shape[1])
  return _weight_per_example(u, kernel, row, col, (offset, scale), segments)


def packed_rows(
  rows: int, length: int, segments: int, vocab: int, num_tasks: int
) -> types.Batch:
  """Rows of equally long segments with random tokens, tasks in turn."""
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
    task_ids=(np.arange(rows) % num_tasks).astype(np.int32),
  )


@dataclasses.dataclass
class TrainStep:
  """A compiled train step with its state; calling it takes a step.

  Attributes:
    model: what is trained.
    state: the present one; its buffers are donated to the next.
    compiled: by the length of the encoder's rows.
  """

  model: Model
  state: TrainState
  compiled: dict[int, jax.stages.Compiled]

  def __call__(self, batch: types.Batch) -> Any:
    """Takes a step; returns what to wait for."""
    step = self.compiled[batch.encoder_input_tokens.shape[1]]
    self.state, metrics = step(self.state, batch, jax.random.key(1))
    return self.state, metrics


def train_step(
  method: str,
  config: run_config.RunConfig,
  num_tasks: int,
  batches: list[types.Batch],
) -> TrainStep:
  """Compiles a method's train step, with Adafactor, and draws parameters.

  Args:
    method: its name, of METHODS, PLAIN or NAIVE.
    config: from `settings`; what it freezes is frozen.
    num_tasks: of the model.
    batches: one of every shape that is to come.
  """
  model = build(config, num_tasks)
  trained = freezing.trained_parameters(
    model.logical_axes, config.train.trainable, added=model.added
  )
  tx = optimizers.make_optimizer(
    optimizers.Adafactor(),
    optimizers.Constant(1e-3),
    logical_axes=model.logical_axes,
    added=model.added,
    trained=trained,
  )

  @jax.jit
  def start(key):
    params = model.init(key)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

  state = start(jax.random.key(0))
  step = jax.jit(
    loop.make_train_step(
      model, tx, loop.TrainConfig(num_steps=1), trained=trained
    ),
    donate_argnums=0,
  )
  with implementation_of(method):
    compiled = {
      batch.encoder_input_tokens.shape[1]: step.lower(
        state, batch, jax.random.key(1)
      ).compile()
      for batch in batches
    }
  return TrainStep(model, state, compiled)


def conditioning_gradient(
  model: Model, batch: types.Batch
) -> Callable[[types.Params], types.Params]:
  """Compiles what the `condition` of both stacks does, forward and backward."""
  size = step_times.condition_size
  return jax.jit(jax.grad(lambda params: size(model, params, batch)))


def _file_of(method: str) -> str:
  return 'hypergrid' if method == NAIVE else method

"""Sizes of a T5 from the shapes of its tensors, and the published sizes."""

from collections.abc import Mapping
import dataclasses
import math
import re

from hypergrid_jax.interop import names
from hypergrid_jax.model.config import T5Config

Layout = Mapping[str, tuple[int, ...]]

_SIZES = (
  'd_model',
  'd_ff',
  'num_heads',
  'd_kv',
  'num_layers',
  'num_decoder_layers',
  'vocab_size',
  'mlp_activations',
  'logits_via_embedding',
)
# Any sizes: their names are what is looked for.
_PROBE = T5Config(
  d_model=1,
  d_ff=1,
  num_heads=1,
  d_kv=1,
  num_layers=1,
  num_decoder_layers=1,
  vocab_size=1,
)


def infer(found: Layout, source: names.Format) -> T5Config | None:
  """Returns the sizes that tensors seem to have; None if they are no T5's.

  What shapes do not tell is as in the published models: the largest relative
  distance, and ReLU or a gated GELU for one or two input kernels. Nothing is
  checked; that is for comparing all tensors with these sizes.
  """
  gated = dataclasses.replace(
    _PROBE, mlp_activations=('gelu', 'linear'), logits_via_embedding=False
  )
  plain = {row.path: row for row in names.rows(_PROBE)}
  probe = {**plain, **{row.path: row for row in names.rows(gated)}}

  def shape(path: str) -> tuple[int, ...] | None:
    row = probe[path]
    value = found.get(row.names[source][0])
    if value is None or len(value) != len(row.their_shape(source)):
      return None
    return value[::-1] if source in row.swapped else value

  embedding = shape('token_embedder/embedding')
  bias = shape('encoder/relative_bias/embedding')
  query = shape('encoder/layers/attention/query')
  feed_forward = shape('encoder/layers/feed_forward/wo')
  if not (embedding and bias and query and feed_forward):
    return None
  has_two = shape('encoder/layers/feed_forward/wi_0') is not None
  return dataclasses.replace(
    gated if has_two else _PROBE,
    d_model=embedding[1],
    vocab_size=embedding[0],
    d_ff=feed_forward[0],
    num_heads=max(bias[1], 1),
    d_kv=max(query[1] // max(bias[1], 1), 1),
    relative_buckets=bias[0],
    num_layers=_count_layers(found, 'encoder', source),
    num_decoder_layers=_count_layers(found, 'decoder', source),
    logits_via_embedding=shape('lm_head') is None,
  )


def nearest(config: T5Config) -> str:
  """Says which published model these sizes are, or come nearest to."""

  def distance(known: T5Config) -> tuple[int, float]:
    differing = _differences(config, known)
    ratio = abs(math.log(config.d_model / known.d_model))
    return len(differing), ratio + abs(math.log(config.d_ff / known.d_ff))

  name, known = min(published().items(), key=lambda item: distance(item[1]))
  differing = _differences(config, known)
  if not differing:
    return f'All sizes are those of {name}.'
  parts = [
    f'{field} {getattr(config, field)} instead of {getattr(known, field)}'
    for field in differing
  ]
  return f'The nearest published model is {name}: {", ".join(parts)}.'


def published() -> dict[str, T5Config]:
  """The models of gin/models that have weights, by the name of their file."""
  from hypergrid_jax.config import gin_files

  found = {}
  folder = gin_files.gin_directory() / 'models'
  for path in sorted(folder.glob('t5_*.gin')):
    fields = {b.field: b.value for b in gin_files.read_file(str(path))}
    fields['mlp_activations'] = tuple(fields['mlp_activations'])
    found[path.stem] = T5Config(**fields)
  return found


def _differences(config: T5Config, known: T5Config) -> list[str]:
  return [f for f in _SIZES if getattr(config, f) != getattr(known, f)]


def _count_layers(found: Layout, stack: str, source: names.Format) -> int:
  """How many layers have a norm before their attention."""
  path = f'{stack}/layers/attention_norm/scale'
  (row,) = (row for row in names.rows(_PROBE) if row.path == path)
  first = re.escape(row.names[source][0])
  any_layer = re.compile(re.sub(r'(?<=[._])0+', r'\\d+', first, count=1))
  return max(sum(bool(any_layer.fullmatch(name)) for name in found), 1)

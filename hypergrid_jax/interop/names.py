"""Which tensor of another program is which part of our parameters.

One table for both directions. Our layers are stacked on a leading axis, theirs
are one tensor each; our kernels are [in, out]. Of the others,

  hf       transformers: kernels are [out, in]
  mesh_tf  the original checkpoints: position biases are [heads, buckets]
  t5x      T5X with unstacked layers: position biases are [heads, buckets]

All three have the two wi of a gated feed-forward and the separate output of
T5 1.1 as we have them.
"""

from collections.abc import Mapping
import dataclasses
from typing import Literal

import numpy as np

from hypergrid_jax.model.config import T5Config

Format = Literal['hf', 'mesh_tf', 't5x']


@dataclasses.dataclass(frozen=True)
class Row:
  """One of our parameters and where others keep it.

  Attributes:
    path: of the parameter, see `tree_paths`.
    shape: of the parameter, the layers included.
    is_stacked: whether the first axis is the layers.
    names: theirs, by format; of a stacked one, in the order of the layers.
    swapped: the formats whose tensors have their two axes swapped.
  """

  path: str
  shape: tuple[int, ...]
  is_stacked: bool
  names: Mapping[str, tuple[str, ...]]
  swapped: tuple[str, ...]

  def their_shape(self, source: Format) -> tuple[int, ...]:
    """The shape of each of their tensors."""
    shape = self.shape[1:] if self.is_stacked else self.shape
    return shape[::-1] if source in self.swapped else shape

  def to_theirs(self, value: np.ndarray, target: Format) -> np.ndarray:
    """Brings one layer's value, or the whole, into their orientation."""
    return value.T if target in self.swapped else value

  to_ours = to_theirs  # swapping two axes is its own inverse


def rows(config: T5Config) -> tuple[Row, ...]:
  """The whole table of one T5, in the order of a forward pass."""
  d, vocabulary = config.d_model, config.vocab_size
  assert vocabulary is not None
  table = [
    _row(
      'token_embedder/embedding',
      (vocabulary, d),
      hf='shared.weight',
      mesh_tf='shared/embedding',
      t5x='token_embedder.embedding',
    )
  ]
  for stack in ('encoder', 'decoder'):
    table += _stack_rows(config, stack)
  if not config.logits_via_embedding:
    table.append(
      _row(
        'lm_head',
        (d, vocabulary),
        hf='lm_head.weight',
        mesh_tf='decoder/logits/kernel',
        t5x='decoder.logits_dense.kernel',
        swapped=('hf',),
      )
    )
  return tuple(table)


def layout(config: T5Config, source: Format) -> dict[str, tuple[int, ...]]:
  """Names and shapes of all tensors of one T5 in another program."""
  return {
    name: row.their_shape(source)
    for row in rows(config)
    for name in row.names[source]
  }


def vocabulary_axis(path: str) -> int | None:
  """Which axis of a parameter of ours is the vocabulary, if one is."""
  return {'token_embedder/embedding': 0, 'lm_head': 1}.get(path)


@dataclasses.dataclass(frozen=True)
class _SubLayer:
  """A part of a layer under each program's name."""

  ours: str
  hf: str
  t5x: str
  t5x_norm: str


_ATTENTION = _SubLayer(
  'attention', 'SelfAttention', 'attention', 'pre_attention_layer_norm'
)
_SELF_ATTENTION = _SubLayer(
  'attention',
  'SelfAttention',
  'self_attention',
  'pre_self_attention_layer_norm',
)
_CROSS_ATTENTION = _SubLayer(
  'cross_attention',
  'EncDecAttention',
  'encoder_decoder_attention',
  'pre_cross_attention_layer_norm',
)
_FEED_FORWARD = _SubLayer(
  'feed_forward', 'DenseReluDense', 'mlp', 'pre_mlp_layer_norm'
)
_SUB_LAYERS = {
  'encoder': (_ATTENTION, _FEED_FORWARD),
  'decoder': (_SELF_ATTENTION, _CROSS_ATTENTION, _FEED_FORWARD),
}
# Our names of the kernels, and those of transformers and of the original.
_ATTENTION_KERNELS = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}


def _stack_rows(config: T5Config, stack: str) -> list[Row]:
  encoder = stack == 'encoder'
  count = config.num_layers if encoder else config.num_decoder_layers
  d = config.d_model
  table = []
  for place, part in enumerate(_SUB_LAYERS[stack]):
    hf = f'{stack}.block.{{n}}.layer.{place}'
    mesh_tf = f'{stack}/block_{{n:03d}}/layer_{place:03d}'
    t5x = f'{stack}.layers_{{n}}'
    ours = f'{stack}/layers/{part.ours}'
    table.append(
      _row(
        f'{ours}_norm/scale',
        (count, d),
        stacked=count,
        hf=f'{hf}.layer_norm.weight',
        mesh_tf=f'{mesh_tf}/layer_norm/scale',
        t5x=f'{t5x}.{part.t5x_norm}.scale',
      )
    )
    for name, shape in _kernels(config, part).items():
      short = _ATTENTION_KERNELS.get(name, name)
      suffix = '' if name in _ATTENTION_KERNELS else '/kernel'
      table.append(
        _row(
          f'{ours}/{name}',
          (count, *shape),
          stacked=count,
          hf=f'{hf}.{part.hf}.{short}.weight',
          mesh_tf=f'{mesh_tf}/{part.hf}/{short}{suffix}',
          t5x=f'{t5x}.{part.t5x}.{name}.kernel',
          swapped=('hf',),
        )
      )
  table.append(
    _row(
      f'{stack}/relative_bias/embedding',
      (config.relative_buckets, config.num_heads),
      hf=(
        f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
      ),
      mesh_tf=(
        f'{stack}/block_000/layer_000/SelfAttention/relative_attention_bias'
      ),
      t5x=f'{stack}.relpos_bias.rel_embedding',
      swapped=('mesh_tf', 't5x'),
    )
  )
  table.append(
    _row(
      f'{stack}/final_norm/scale',
      (d,),
      hf=f'{stack}.final_layer_norm.weight',
      mesh_tf=f'{stack}/final_layer_norm/scale',
      t5x=f'{stack}.{stack}_norm.scale',
    )
  )
  return table


def _kernels(config: T5Config, part: _SubLayer) -> dict[str, tuple[int, int]]:
  d, joined = config.d_model, config.num_heads * config.d_kv
  if part is _FEED_FORWARD:
    inward = {name: (d, config.d_ff) for name in config.wi_names}
    return {**inward, 'wo': (config.d_ff, d)}
  return {
    name: (joined, d) if name == 'out' else (d, joined)
    for name in _ATTENTION_KERNELS
  }


def _row(
  path: str,
  shape: tuple[int, ...],
  *,
  stacked: int | None = None,
  swapped: tuple[str, ...] = (),
  **templates: str,
) -> Row:
  numbers = range(1 if stacked is None else stacked)
  return Row(
    path,
    shape,
    stacked is not None,
    {
      source: tuple(template.format(n=n) for n in numbers)
      for source, template in templates.items()
    },
    swapped,
  )

"""The numbers that make one T5: sizes, activations, numerics."""

import dataclasses
from typing import Literal

from hypergrid_jax import errors


@dataclasses.dataclass(frozen=True)
class T5Config:
  """A T5 encoder-decoder (Raffel et al. 2020, arXiv:1910.10683).

  Version 1.0 is `mlp_activations=('relu',)` with `logits_via_embedding=True`;
  version 1.1 is `('gelu', 'linear')` with `logits_via_embedding=False`. The
  files in gin/models hold the published sizes.

  Attributes:
    d_model: width of the residual stream.
    d_ff: width of the feed-forward layer.
    num_heads: attention heads.
    d_kv: width of one head; `num_heads * d_kv` need not equal `d_model`.
    num_layers: encoder layers.
    num_decoder_layers: decoder layers.
    vocab_size: rows of the embedding table; None takes the vocabulary's size,
      rounded up to a multiple of 128 as T5's checkpoints do (32,100 -> 32,128).
    relative_buckets: relative position buckets of one attention direction set.
    relative_max_distance: distances beyond this share the last bucket, tokens.
    relative_bias_stddev: of the initial relative position bias; None is T5X's,
      the average of fan-in and fan-out to the power -1/2. Small models that
      start from scratch learn word order sooner with 1.
    dropout_rate: in [0, 1), at T5's places.
    mlp_activations: one name, or two for a gated feed-forward.
    logits_via_embedding: tie the output to the embedding table, with logits
      scaled by d_model**-0.5.
    dtype: of activations: 'bfloat16', 'float32' or 'float64'. Parameters,
      norms, softmax, logits and loss are float32 at least.
    remat_policy: what the backward pass recomputes in a layer: 'none' stores
      everything, 'minimal' stores matmul outputs, 'full' stores layer inputs.
    scan_layers: compile one layer and scan it (True) or unroll the stack.
    layer_norm_epsilon: of RMSNorm.
  """

  d_model: int
  d_ff: int
  num_heads: int
  d_kv: int
  num_layers: int
  num_decoder_layers: int
  vocab_size: int | None = None
  relative_buckets: int = 32
  relative_max_distance: int = 128
  relative_bias_stddev: float | None = None
  dropout_rate: float = 0.1
  mlp_activations: tuple[str, ...] = ('relu',)
  logits_via_embedding: bool = True
  dtype: str = 'bfloat16'
  remat_policy: Literal['none', 'minimal', 'full'] = 'none'
  scan_layers: bool = True
  layer_norm_epsilon: float = 1e-6

  def __post_init__(self):
    if self.dtype == 'float16':
      raise errors.UserError(
        "T5Config.dtype: float16 overflows in T5's residual stream; use"
        " 'bfloat16' (or 'float32')."
      )
    dtypes = ('bfloat16', 'float32', 'float64')
    if self.dtype not in dtypes:
      raise errors.UserError(
        f'T5Config.dtype: got {self.dtype!r}, expected one of {dtypes}.'
        f'{errors.closest(self.dtype, dtypes)}'
      )
    for name in (
      'd_model',
      'd_ff',
      'num_heads',
      'd_kv',
      'num_layers',
      'num_decoder_layers',
    ):
      if getattr(self, name) < 1:
        raise errors.UserError(
          f'T5Config.{name}: got {getattr(self, name)}, expected at least 1.'
        )
    if not 0.0 <= self.dropout_rate < 1.0:
      raise errors.UserError(
        f'T5Config.dropout_rate: got {self.dropout_rate}, expected a number in'
        ' [0, 1).'
      )
    if self.remat_policy not in ('none', 'minimal', 'full'):
      raise errors.UserError(
        f'T5Config.remat_policy: got {self.remat_policy!r}, expected'
        " 'none', 'minimal' or 'full'."
        f'{errors.closest(self.remat_policy, ("none", "minimal", "full"))}'
      )
    known = ('relu', 'gelu', 'linear')
    for name in self.mlp_activations:
      if name not in known:
        raise errors.UserError(
          f'T5Config.mlp_activations: unknown activation {name!r}; expected'
          f' some of {known}.{errors.closest(name, known)}'
        )
    if not 1 <= len(self.mlp_activations) <= 2:
      raise errors.UserError(
        'T5Config.mlp_activations: expected one name (T5 1.0) or two (gated,'
        f' T5 1.1), got {self.mlp_activations!r}.'
      )

  @property
  def wi_names(self) -> tuple[str, ...]:
    """Names of the input kernels of the feed-forward layer."""
    if len(self.mlp_activations) == 1:
      return ('wi',)
    return ('wi_0', 'wi_1')

"""T5's feed-forward layer with kernels that a grid of gates multiplies."""

import functools
from typing import Literal

from flax import nnx
from jaxtyping import Array, Float

from hypergrid_jax import types
from hypergrid_jax.model import conditioning, extension, layers
from hypergrid_jax.ops import choices, gated_matmul, partitions
from hypergrid_jax.parallel import partitioning

State = Literal['first_token', 'mean', 'task']


def read_state(
  state: State, x: Float[Array, 'B L D'], segments: types.Segments
) -> Float[Array, 'B S D']:
  """The conditioning vector of each segment, from hidden states."""
  if state == 'first_token':
    return conditioning.first_token_state(x, segments)
  return conditioning.mean_state(x, segments)


class GatedMlpBlock(layers.MlpBlock):
  """T5's feed-forward layer with gated kernels; parameter names unchanged."""

  def __init__(
    self,
    site: extension.Site,
    *,
    gated: tuple[str, ...],
    state: State,
    whole_outputs: bool,
    implementation: choices.Implementation,
    rngs: nnx.Rngs,
  ):
    """Makes the kernels of a plain layer.

    Args:
      site: where the layer is.
      gated: names of the kernels that have a gate.
      state: what local factors are made from; the encoder's layers read it from
        their own input.
      whole_outputs: the gate is a factor for every output, not a grid.
      implementation: see `ops.choices`.
      rngs: for the kernels.
    """
    super().__init__(site.config, rngs=rngs)
    self.state = state
    self.reads_input = site.stack == 'encoder' and state != 'task'
    self.gated = gated
    self.whole_outputs = whole_outputs
    self.implementation = implementation
    self.partition = functools.partial(partition, rules=site.rules)

  def matmul(self, x, cond, segments):
    """Gated for the selected kernels, plain for the others."""
    state = None
    if self.reads_input:
      state = read_state(self.state, x, segments)

    def multiply(name, u, rectifier=None):
      if name not in self.gated:
        return self.plain_matmul(name, u, rectifier)
      gate = cond.per_layer[name]
      factors = gate['factors']
      if state is not None:
        factors = {side: factor(x, state) for side, x in factors.items()}
      if self.whole_outputs:
        y = self.plain_matmul(name, u, rectifier)
        return self._scale_outputs(y, factors['col'], gate, segments)
      return gated_matmul.gated_matmul(
        u.astype(self.dtype),
        getattr(self, name)[...],
        factors['row'],
        factors['col'],
        segments.ids,
        scale=gate['scale'],
        offset=gate['offset'],
        implementation=self.implementation,
        partition=self.partition(name),
        rectifier=rectifier,
      )

    return multiply

  def _scale_outputs(self, y, col, gate, segments):
    values = nnx.sigmoid(col)
    values = gate['offset'] + gate['scale'] * values
    values = conditioning.per_token(values, segments.ids)
    return y * values.astype(self.dtype)


def partition(name: str, rules: partitioning.Rules) -> partitions.Partition:
  """Which mesh axes divide the product with a feed-forward kernel.

  As the activations lie: what only the parameters are divided by, such as
  'fsdp', is gathered before the product.
  """
  axes = ('mlp', 'activation_embed')
  inputs, outputs = axes if name == 'wo' else axes[::-1]
  return partitions.Partition(rules['batch'], rules[inputs], rules[outputs])


def factor(
  parameter: Float[Array, 'D G'] | Float[Array, ' G'],
  state: Float[Array, 'B S D'],
) -> Float[Array, '#B #S G']:
  """A local factor from the state, or a global one as it is; float32."""
  if parameter.ndim == 1:
    return parameter[None, None, :]
  return state.astype(parameter.dtype) @ parameter

"""HyperGrid: feed-forward weights gated block by block per example.

Tay, Zhao, Bahri, Metzler, Juan: HyperGrid Transformers, ICLR 2021
(arXiv:2007.05891). A feed-forward kernel W [K, N] is multiplied elementwise by
a gate G of `grid_rows` x `grid_cols` blocks, one gate per example:

  y = u (G * W)
  G[k, n] = offset + scale * sigmoid(r[k // bk] * c[n // bn])

Each of the factors r and c is local, a projection of the example's conditioning
vector x, or global, a trained vector:

  L    y = s(U x) * (u W), a full-width gate on the outputs
  L2   r = L_r x, c = L_c x
  LG   r = L_r x, c = trained vector
  GL   r = trained vector, c = L_c x

The way from the equation to the product is in this file: `KernelFactors` has
the trained L_r, L_c or vectors of one kernel, `GateFactors` those of a stack,
`Gate` is G of one kernel in one layer, and `HyperGridMlp` is T5's feed-forward
layer whose products are `u (G * W)`. `ops.gated_matmul` computes these without
G * W of any example in memory.

Where the paper leaves a choice open or we could not check it, it is a field
with a stated default: grid sizes, conditioning vector, which side is rows, and
the form of the gate. The decoder is conditioned on the encoder's output, the
same vector in training and in cached decoding.
"""

import dataclasses
import functools
from typing import Any, Literal, get_args

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from hypergrid_jax import errors, types
from hypergrid_jax.methods import folding
from hypergrid_jax.model import conditioning, extension, layers
from hypergrid_jax.ops import choices
from hypergrid_jax.ops.gated_matmul import gated_matmul
from hypergrid_jax.ops.segments import per_token
from hypergrid_jax.ops.sharded import Partition
from hypergrid_jax.parallel import partitioning

Variant = Literal['L', 'L2', 'LG', 'GL']
State = Literal['first_token', 'mean', 'task']
Form = Literal['plain', 'residual', 'identity']
Implementation = choices.Implementation

# Which factors of a gate are local.
LOCAL: dict[str, tuple[str, ...]] = {
  'L': ('col',),
  'L2': ('row', 'col'),
  'LG': ('row',),
  'GL': ('col',),
}
# The (offset, scale) of each form of the gate.
FORMS: dict[str, tuple[float, float]] = {
  'plain': (0.0, 1.0),
  'residual': (1.0, 1.0),
  'identity': (0.0, 2.0),
}


@dataclasses.dataclass(frozen=True)
class HyperGrid:
  """Hyper-parameters of HyperGrid.

  Attributes:
    variant: which factors are local, see the module's text.
    grid_rows: blocks of a kernel's inputs; must divide them.
    grid_cols: blocks of a kernel's outputs; must divide them. The paper's
      sizes are not known to us; 8 x 8 is our default.
    col_width: outputs of a block, in place of `grid_cols`; None leaves that.
      128 is fast on TPU v5e and v5p, 256 on v6e and v4, for any size of model.
    gate_wo: gate the second kernel of the feed-forward, as the paper does.
    gate_wi: gate the first kernel(s) too.
    encoder: gate the encoder's layers.
    decoder: gate the decoder's layers.
    layers: 'all', 'upper_half', or layer numbers from 0, in each gated stack.
    state: the conditioning vector x. 'first_token' is the state of the
      segment's first token in the gated layer's own normed input, 'mean' the
      mean over the segment's tokens; in the decoder both are taken from the
      encoder's output. 'task' is a trained vector per task, one table per
      stack.
    form: 'plain' s, 'residual' 1 + s, 'identity' 2 s. Only 'identity' is 1 at
      initialisation, so only it keeps a pre-trained T5's function at step 0.
    implementation: 'auto' chooses by platform and shape; 'pallas' insists on
      the TPU kernels, 'xla' on plain operations, 'reference' is for tests.
  """

  variant: Variant = 'L2'
  grid_rows: int = 8
  grid_cols: int = 8
  col_width: int | None = None
  gate_wo: bool = True
  gate_wi: bool = False
  encoder: bool = True
  decoder: bool = True
  layers: conditioning.Layers = 'all'
  state: State = 'first_token'
  form: Form = 'identity'
  implementation: Implementation = 'auto'

  def __post_init__(self):
    for name, literal in (
      ('variant', Variant),
      ('state', State),
      ('form', Form),
      ('implementation', Implementation),
    ):
      errors.check_choice(
        f'HyperGrid.{name}', getattr(self, name), get_args(literal)
      )
    for name in ('grid_rows', 'grid_cols', 'col_width'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise errors.UserError(
          f'HyperGrid.{name}: got {value}, expected at least 1.'
        )
    conditioning.check_layers(self.layers, 'HyperGrid.layers')
    for first, second in (('gate_wo', 'gate_wi'), ('encoder', 'decoder')):
      if not (getattr(self, first) or getattr(self, second)):
        raise errors.UserError(
          f'HyperGrid.{first} and HyperGrid.{second} are both False: nothing'
          ' would be gated. For a plain T5 set run.method = None.'
        )

  def extension_points(self) -> extension.ExtensionPoints:
    """Returns the points of T5 that this method replaces."""

    def condition(site, *, rngs):
      if not self._gates(site.stack):
        return extension.no_condition(site, rngs=rngs)
      return GateFactors(self, site, rngs=rngs)

    def feed_forward(site, *, rngs):
      if not self._gates(site.stack):
        return extension.mlp_block(site, rngs=rngs)
      return HyperGridMlp(self, site, rngs=rngs)

    return extension.ExtensionPoints(
      condition=condition, feed_forward=feed_forward
    )

  def fold(self, config, params: folding.Leaves, task_id: int):
    """Multiplies the gates of one task into the kernels; see `folding`.

    Raises:
      UserError: the gates follow from hidden states.
    """
    if self.state != 'task':
      raise folding.not_plain(
        f'HyperGrid.state = {self.state!r}',
        'the gates follow from hidden states, so every example has its own;'
        " those of state = 'task' can be folded",
      )
    offset, scale = FORMS[self.form]
    folded = folding.without_conditions(params)
    for stack in filter(self._gates, folding.STACKS):
      prefix = f'{stack}/condition'
      state = params[f'{prefix}/task/embedding'][task_id].astype(np.float64)
      selected = self.selected_layers(getattr(config, folding.STACKS[stack]))
      for name in self.gated_kernels(config):
        path = f'{stack}/layers/feed_forward/{name}'
        folded[path] = folded[path].copy()
        for n, layer in enumerate(selected):
          product = 1.0
          for side in ('row', 'col'):
            weight = params.get(f'{prefix}/{name}/{side}')
            if weight is not None:
              local = side in LOCAL[self.variant]
              factor = state @ weight[n] if local else weight[n]
              product = np.multiply.outer(product, factor)
          gate = offset + scale / (1 + np.exp(-product))
          folded[path][layer] *= folding.expanded(gate, folded[path][layer])
    return folded

  def gated_kernels(self, config) -> tuple[str, ...]:
    """Returns the names of the gated kernels of one feed-forward layer."""
    wi = config.wi_names if self.gate_wi else ()
    return (*wi, 'wo') if self.gate_wo else wi

  def grid(self, config, name: str) -> tuple[int, int]:
    """Returns the number of blocks of a kernel's inputs and of its outputs."""
    if self.col_width is None:
      return self.grid_rows, self.grid_cols
    return self.grid_rows, kernel_shape(config, name)[1] // self.col_width

  def selected_layers(self, num_layers: int) -> tuple[int, ...]:
    """Returns the numbers of the gated layers of a stack, ascending.

    Raises:
      UserError: a number is not a layer of the stack.
    """
    return conditioning.selected_layers(
      self.layers, num_layers, 'HyperGrid.layers'
    )

  def _gates(self, stack: str) -> bool:
    return self.encoder if stack == 'encoder' else self.decoder


def kernel_shape(config, name: str) -> tuple[int, int]:
  """Returns the inputs and outputs of a feed-forward kernel."""
  if name == 'wo':
    return config.d_ff, config.d_model
  return config.d_model, config.d_ff


def check_grid(method: HyperGrid, config, name: str) -> None:
  """Refuses a grid that does not divide a kernel.

  Raises:
    UserError: naming the field, the size, and the nearest sizes that divide.
  """
  if method.variant == 'L':
    return
  inputs, outputs = kernel_shape(config, name)
  columns = 'grid_cols' if method.col_width is None else 'col_width'
  for field, side, size in (
    ('grid_rows', 'inputs', inputs),
    (columns, 'outputs', outputs),
  ):
    count = getattr(method, field)
    if size % count:
      divisors = [d for d in range(1, size + 1) if size % d == 0]
      near = sorted(divisors, key=lambda d: abs(d - count))[:3]
      raise errors.UserError(
        f'HyperGrid.{field} = {count} does not divide the {side} of'
        f' {name!r} ({size}). Sizes that do: {sorted(near)}.'
      )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gate:
  """G = offset + scale * sigmoid(r c^T) of one kernel in one layer.

  Attributes:
    row: r of every segment, [B|1, S|1, Gr]; None with the variant L.
    col: c of every segment, [B|1, S|1, Gc], or N numbers with the variant L.
    offset: float32 scalar; 1 in a layer without gates.
    scale: float32 scalar; 0 in a layer without gates.
  """

  row: Any
  col: Any
  offset: Any
  scale: Any

  def of(self, state: Array, local: tuple[str, ...]) -> 'Gate':
    """Makes the factors, where `row` and `col` are still what makes them.

    Args:
      state: x of every segment, [B, S, D].
      local: 'row' and 'col' where they are a projection L [D, G], whose factor
        is L x; the others are trained vectors [G], alike for all segments.

    Returns:
      The gate with float32 factors of every segment.
    """

    def factor(side, weight):
      if weight is None:
        return None
      if side in local:
        return state.astype(weight.dtype) @ weight
      return weight[None, None, :]

    return dataclasses.replace(
      self, row=factor('row', self.row), col=factor('col', self.col)
    )

  def values(self) -> Array:
    """Returns G by block, [B|1, S|1, Gr, Gc]; with the variant L [B|1, S|1, N].

    Products do without it; see `ops.gated_matmul`.
    """
    z = self.col
    if self.row is not None:
      z = self.row[..., :, None] * self.col[..., None, :]
    return self.offset + self.scale * nnx.sigmoid(z)


class HyperGridMlp(layers.MlpBlock):
  """T5's feed-forward layer with gated kernels; parameter names unchanged."""

  def __init__(
    self, method: HyperGrid, site: extension.Site, *, rngs: nnx.Rngs
  ):
    super().__init__(site.config, rngs=rngs)
    self.state = method.state
    self.local = LOCAL[method.variant]
    # The encoder's layers take x from their own input; in the decoder, and for
    # a task's vector, `GateFactors` has made the factors of all layers.
    self.reads_input = site.stack == 'encoder' and method.state != 'task'
    self.implementation = method.implementation
    self.partition = functools.partial(partition, rules=site.rules)

  def __call__(
    self,
    x: Float[Array, 'B L D'],
    cond: types.Conditioning,
    segments: types.Segments,
    *,
    dropout_key: jax.Array | None = None,
  ) -> Float[Array, 'B L D']:
    """Applies the layer with this layer's gates, by the kernels' names."""
    gates = cond.per_layer
    if self.reads_input:
      state = segment_state(self.state, x, segments)
      gates = {name: g.of(state, self.local) for name, g in gates.items()}
    return super().__call__(x, gates, segments, dropout_key=dropout_key)

  def project(self, name, u, gates, segments):
    """Returns `u (G * W)`, with one G per segment; `u W` for a plain kernel."""
    if name not in gates:
      return super().project(name, u, gates, segments)
    gate = gates[name]
    if gate.row is None:  # a factor per output
      y = super().project(name, u, gates, segments)
      outputs = per_token(gate.values(), segments.ids)
      return y * outputs.astype(self.dtype)
    return gated_matmul(
      u.astype(self.dtype),
      getattr(self, name)[...],
      gate.row,
      gate.col,
      segments.ids,
      offset=gate.offset,
      scale=gate.scale,
      implementation=self.implementation,
      partition=self.partition(name),
    )


def segment_state(
  state: State, x: Float[Array, 'B L D'], segments: types.Segments
) -> Float[Array, 'B S D']:
  """Returns the conditioning vector of each segment, from hidden states."""
  if state == 'first_token':
    return conditioning.first_token_state(x, segments)
  return conditioning.mean_state(x, segments)


def partition(name: str, rules: partitioning.Rules) -> Partition:
  """Returns the mesh axes that divide the product with a feed-forward kernel.

  They are those of the activations: a kernel that is divided by others too,
  such as 'fsdp', is gathered before the product.
  """
  axes = ('mlp', 'activation_embed')
  inputs, outputs = axes if name == 'wo' else axes[::-1]
  return Partition(rules['batch'], rules[inputs], rules[outputs])


class GateFactors(nnx.Module):
  """What makes the gates of all gated layers of one stack.

  It lies beside the layers, not in them, so that a stack with a few gated
  layers has exactly those layers' parameters and can still be scanned.
  """

  def __init__(
    self, method: HyperGrid, site: extension.Site, *, rngs: nnx.Rngs
  ):
    config = site.config
    self.state = method.state
    self.stack = site.stack
    self.local = LOCAL[method.variant]
    self.num_layers = site.num_layers
    self.selected = method.selected_layers(site.num_layers)
    self.offset, self.scale = FORMS[method.form]
    self.names = method.gated_kernels(config)
    for name in self.names:
      check_grid(method, config, name)
      factors = KernelFactors(
        method, config, name, len(self.selected), rngs=rngs
      )
      setattr(self, name, factors)
    if method.state == 'task':
      tasks, width = site.num_tasks, config.d_model
      self.task = conditioning.TaskEmbedding(tasks, width, rngs=rngs)

  def __call__(self, inputs: extension.ConditionInputs) -> types.Conditioning:
    """Returns a `Gate` per kernel, with a leading axis of the stack's layers.

    Where all layers take the same x, the factors of the segments are made here:
    once, and not again at every decoding step.
    """
    state = self._shared_state(inputs)
    has_gate = np.isin(np.arange(self.num_layers), self.selected)
    gates = {}
    for name in self.names:
      weights = getattr(self, name)
      gate = Gate(
        row=self._by_layer(weights.row),
        col=self._by_layer(weights.col),
        offset=jnp.where(has_gate, self.offset, 1.0),
        scale=jnp.where(has_gate, self.scale, 0.0),
      )
      if state is not None:
        gate = jax.vmap(lambda gate: gate.of(state, self.local))(gate)
      gates[name] = gate
    return types.Conditioning(per_layer=gates)

  def _by_layer(self, weight: nnx.Param | None) -> Array | None:
    """Gives every layer of the stack a weight; plain layers use any."""
    if weight is None or len(self.selected) == self.num_layers:
      return None if weight is None else weight[...]
    index = np.zeros(self.num_layers, np.int32)
    index[list(self.selected)] = np.arange(len(self.selected))
    return weight[...][index]

  def _shared_state(self, inputs) -> Float[Array, 'B S D'] | None:
    if self.state == 'task':
      return self.task(inputs.task_ids)[:, None, :]
    if self.stack == 'encoder':
      return None  # every layer reads its own input
    return segment_state(
      self.state, inputs.encoder_output, inputs.encoder_segments
    )


class KernelFactors(nnx.Module):
  """What makes the factors of one kernel's gates, in all n gated layers.

  A local factor has a projection L [n, D, G], a global one a vector [n, G].
  Columns start at zero, so every gate starts at sigmoid(0); rows start at
  normal(0, 1/d_model), which makes r of unit size for a normed x, and lets
  the first gradients reach the columns.
  """

  def __init__(
    self,
    method: HyperGrid,
    config: Any,
    name: str,
    num_gated: int,
    *,
    rngs: nnx.Rngs,
  ):
    d, local = config.d_model, LOCAL[method.variant]

    def parameter(side, size, axis, stddev=0.0):
      shape, axes = (num_gated, size), ('layers', axis)
      if side in local:
        shape, axes = (num_gated, d, size), ('layers', 'embed', axis)
      return layers.parameter(rngs, shape, axes, stddev=stddev, stream='method')

    if method.variant == 'L':
      outputs = kernel_shape(config, name)[1]
      self.row = None
      self.col = parameter(
        'col', outputs, 'mlp' if name != 'wo' else 'grid_col'
      )
      return
    rows, columns = method.grid(config, name)
    row_stddev = d**-0.5 if 'row' in local else 1.0
    self.row = parameter('row', rows, 'grid_row', row_stddev)
    self.col = parameter('col', columns, 'grid_col')

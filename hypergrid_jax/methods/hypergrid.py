"""HyperGrid: feed-forward weights gated block by block per example.

Tay, Zhao, Bahri, Metzler, Juan: HyperGrid Transformers, ICLR 2021
(arXiv:2007.05891). A feed-forward kernel W is multiplied elementwise by a gate
psi(sigmoid(r c^T)): r cuts W's inputs into `grid_rows` blocks, c its outputs
into `grid_cols`; each factor is local (a projection of the example's
conditioning vector x) or global (a trained vector).

  L    y = s(U x) * (u W), a full-width gate on the outputs
  L2   r = L_r x, c = L_c x
  LG   r = L_r x, c = trained vector
  GL   r = trained vector, c = L_c x

Where the paper leaves a choice open or we could not check it, it is a field
with a stated default: grid sizes, conditioning vector, which side is rows, and
the form of the gate. The decoder is conditioned on the encoder's output, the
same vector in training and in cached decoding.
"""

import dataclasses
from typing import Literal, get_args

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from hypergrid_jax import errors, types
from hypergrid_jax.methods import folding, gated_mlp
from hypergrid_jax.model import conditioning, extension, layers
from hypergrid_jax.ops import choices

Variant = Literal['L', 'L2', 'LG', 'GL']
State = gated_mlp.State
Form = Literal['plain', 'residual', 'identity']
Implementation = choices.Implementation

# gate = offset + scale * sigmoid(.)
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
    for name, known in (
      ('variant', get_args(Variant)),
      ('state', get_args(State)),
      ('form', get_args(Form)),
      ('implementation', get_args(Implementation)),
    ):
      value = getattr(self, name)
      if value not in known:
        raise errors.UserError(
          f'HyperGrid.{name}: got {value!r}, expected one of {known}.'
          f'{errors.closest(str(value), known)}'
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
    """The points of T5 this method replaces."""

    def condition(site, *, rngs):
      if not self._gates(site.stack):
        return extension.no_condition(site, rngs=rngs)
      return GateFactors(self, site, rngs=rngs)

    def feed_forward(site, *, rngs):
      if not self._gates(site.stack):
        return extension.mlp_block(site, rngs=rngs)
      return gated_mlp.GatedMlpBlock(
        site,
        gated=self.gated_kernels(site.config),
        state=self.state,
        whole_outputs=self.variant == 'L',
        implementation=self.implementation,
        rngs=rngs,
      )

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
    folded = folding.without_conditions(params)
    for stack in filter(self._gates, folding.STACKS):
      made = f'{stack}/condition'
      state = params[f'{made}/task/embedding'][task_id].astype(np.float64)
      layers_ = self.selected_layers(getattr(config, folding.STACKS[stack]))
      for name in self.gated_kernels(config):
        path = f'{stack}/layers/feed_forward/{name}'
        folded[path] = folded[path].copy()
        for n, layer in enumerate(layers_):
          product = 1.0
          for factor in ('row', 'col'):
            value = params.get(f'{made}/{name}/{factor}')
            if value is not None:
              value = value[n] if value.ndim == 2 else state @ value[n]
              product = np.multiply.outer(product, value)
          offset, scale = FORMS[self.form]
          gate = offset + scale / (1 + np.exp(-product))
          folded[path][layer] *= folding.expanded(gate, folded[path][layer])
    return folded

  def gated_kernels(self, config) -> tuple[str, ...]:
    """Names of the gated kernels of one feed-forward layer."""
    wi = config.wi_names if self.gate_wi else ()
    return (*wi, 'wo') if self.gate_wo else wi

  def grid(self, config, name: str) -> tuple[int, int]:
    """Blocks of a kernel's inputs and of its outputs."""
    if self.col_width is None:
      return self.grid_rows, self.grid_cols
    return self.grid_rows, kernel_shape(config, name)[1] // self.col_width

  def selected_layers(self, num_layers: int) -> tuple[int, ...]:
    """Numbers of the gated layers of a stack, ascending.

    Raises:
      UserError: a number is not a layer of the stack.
    """
    return conditioning.selected_layers(
      self.layers, num_layers, 'HyperGrid.layers'
    )

  def _gates(self, stack: str) -> bool:
    return self.encoder if stack == 'encoder' else self.decoder


def kernel_shape(config, name: str) -> tuple[int, int]:
  """(inputs, outputs) of a feed-forward kernel."""
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
    wanted = getattr(method, field)
    if size % wanted:
      divisors = [d for d in range(1, size + 1) if size % d == 0]
      near = sorted(divisors, key=lambda d: abs(d - wanted))[:3]
      raise errors.UserError(
        f'HyperGrid.{field} = {wanted} does not divide the {side} of'
        f' {name!r} ({size}). Sizes that do: {sorted(near)}.'
      )


class GateFactors(nnx.Module):
  """The gate parameters of all gated layers of one stack.

  They live beside the layers, not in them, so that a stack with a few gated
  layers has exactly those layers' parameters and can still be scanned.
  """

  def __init__(
    self, method: HyperGrid, site: extension.Site, *, rngs: nnx.Rngs
  ):
    config = site.config
    self.state = method.state
    self.stack = site.stack
    self.num_layers = site.num_layers
    self.selected = method.selected_layers(site.num_layers)
    self.offset, self.scale = FORMS[method.form]
    self.names = method.gated_kernels(config)
    for name in self.names:
      check_grid(method, config, name)
      factors = _KernelFactors(
        method, config, name, len(self.selected), rngs=rngs
      )
      setattr(self, name, factors)
    if method.state == 'task':
      tasks, width = site.num_tasks, config.d_model
      self.task = conditioning.TaskEmbedding(tasks, width, rngs=rngs)

  def __call__(self, inputs: extension.ConditionInputs) -> types.Conditioning:
    """Spreads the factors over the stack's layers.

    Layers without a gate get (offset, scale) = (1, 0), a gate of exactly 1.
    Where all layers read one state, the segments' factors are made here: once,
    and not at every decoding step.
    """
    state = self._shared_state(inputs)
    chosen = np.isin(np.arange(self.num_layers), self.selected)
    per_layer = {
      name: {
        'factors': self._factors(getattr(self, name), state),
        'scale': jnp.where(chosen, self.scale, 0.0),
        'offset': jnp.where(chosen, self.offset, 1.0),
      }
      for name in self.names
    }
    return types.Conditioning(per_layer=per_layer)

  def _factors(self, factors, state):
    """By layer: the parameters, or with a state the segments' factors."""
    values = nnx.to_pure_dict(nnx.state(factors))
    if len(self.selected) < self.num_layers:
      index = np.zeros(self.num_layers, np.int32)
      index[list(self.selected)] = np.arange(len(self.selected))
      values = {name: value[index] for name, value in values.items()}
    if state is not None:
      spread = jax.vmap(gated_mlp.factor, (0, None))
      values = {name: spread(value, state) for name, value in values.items()}
    return values

  def _shared_state(self, inputs) -> Float[Array, 'B S D'] | None:
    if self.state == 'task':
      return self.task(inputs.task_ids)[:, None, :]
    if self.stack == 'encoder':
      return None  # every layer reads its own input
    x, segments = inputs.encoder_output, inputs.encoder_segments
    return gated_mlp.read_state(self.state, x, segments)


class _KernelFactors(nnx.Module):
  """Row and column factors of one kernel in all gated layers.

  Columns start at zero, so every gate starts at sigmoid(0); rows start at
  normal(0, 1/d_model), which makes r of unit size for a normed x, and lets
  the first gradients reach the columns.
  """

  def __init__(self, method, config, name, num_gated, *, rngs):
    d = config.d_model
    if method.variant == 'L':
      outputs = kernel_shape(config, name)[1]
      axes = ('layers', 'embed', 'mlp' if name != 'wo' else 'grid_col')
      self.col = layers.parameter(rngs, (num_gated, d, outputs), axes)
      return
    rows, columns = method.grid(config, name)
    row_shape, row_axes = (num_gated, rows), ('layers', 'grid_row')
    col_shape, col_axes = (num_gated, columns), ('layers', 'grid_col')
    row_stddev = 1.0
    if method.variant in ('L2', 'LG'):
      row_shape = (num_gated, d, rows)
      row_axes = ('layers', 'embed', 'grid_row')
      row_stddev = d**-0.5
    if method.variant in ('L2', 'GL'):
      col_shape = (num_gated, d, columns)
      col_axes = ('layers', 'embed', 'grid_col')
    self.row = layers.parameter(
      rngs, row_shape, row_axes, stddev=row_stddev, stream='method'
    )
    self.col = layers.parameter(rngs, col_shape, col_axes)

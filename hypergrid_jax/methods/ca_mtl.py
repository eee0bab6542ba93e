"""CA-MTL: modules inside the encoder that depend on the row's task.

Pilault, El hattami, Pal: Conditionally Adaptive Multi-Task Learning, ICLR 2021
(arXiv:2009.09139), with T5 in the place of BERT. Every task has a trained
vector z; z' = W z + b. FiLM maps a vector to gamma and beta per feature and x
to (1 + gamma) x + beta. Four components, each of which can be switched off:

  alignment   x <- FiLM(z) on the embedded tokens
  attention   a bias M(z') on the self-attention logits of every layer, the same
              for all heads: blocks of `window` tokens on the diagonal, learned
              and modulated by FiLM(z'), see ops/block_diagonal.py
  norm        RMSNorm's scale s becomes (1 + gamma) s + beta, FiLM(z')
  bottleneck  up(down(FiLM(z'', RMS(x)))) with z'' = W' z' + b', either added
              once after the last layer ('top', the paper's base model), or a
              side path with one rung per layer, s <- bottleneck(x + s), added
              after the last layer ('ladder', the paper's large model)

The model starts as exactly the plain T5: the weights of gamma and beta, the
blocks and `up` start at zero, all other matrices at normal(0, 0.02^2), as in
BERT.

Where T5 asks for something else than the authors' BERT: the norms before the
sublayers are conditioned, not those after them; they have no bias; RMS, which
has no scale of its own because FiLM has one, is there because T5 norms before
a sublayer and not after it; the top layer keeps its pre-trained weights, and
the bottleneck's output is added to the encoder's instead of replacing it; FiLM
starts at zero, not at random. The logits of T5's attention are not divided by
sqrt(d_kv), and M is added as it is. Positions count within the example, so
packing changes nothing. The decoder, where the originals have a
head per task, is plain unless asked otherwise.
"""

import dataclasses
from typing import Literal, get_args

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from hypergrid_jax import errors, types
from hypergrid_jax.methods import folding
from hypergrid_jax.model import conditioning, extension, layers
from hypergrid_jax.ops import block_diagonal

Attention = Literal['window', 'shared_block']
BottleneckPosition = Literal['top', 'ladder']
Activation = Literal['linear', 'gelu']

_NOT_PLAIN = {
  'alignment': "one stack's tokens are changed, and T5 has one table for both",
  'attention': 'T5 has no bias on attention by position and task',
  'bottleneck': 'T5 has no layer there',
}
STDDEV = 0.02  # BERT's, for every matrix that does not start at zero


@dataclasses.dataclass(frozen=True)
class CAMTL:
  """Hyper-parameters of CA-MTL; the defaults are the paper's base model.

  Attributes:
    alignment: condition the embedded tokens.
    attention: 'window' has a row of parameters for every position, as the
      paper; 'shared_block' repeats one block for examples of any length; None
      leaves attention plain.
    window: tokens per block. The paper cuts d_model features into
      d_model // 128 blocks of a 128-token input: 22 for base, 16 for large.
    max_length: with 'window', positions that have parameters; a run whose
      examples may be longer is refused. The paper's is 128, T5's lengths need
      512.
    attention_per_head: learn the blocks for each head; gamma and beta stay
      shared.
    norm: condition the norms before self-attention and feed-forward.
    norm_layers: the layers with conditioned norms: 'upper_half', as in the
      paper, 'all', or layer numbers from 0.
    final_norm: condition the encoder's final norm too.
    bottleneck: 'top', 'ladder', or None for none.
    bottleneck_width: None is d_model // 3.
    bottleneck_activation: the function between down and up; 'linear' is the
      authors' choice of none.
    decoder_alignment: condition the decoder's embedded tokens too.
    decoder_norm: condition the decoder's norms too, in the same layers, and
      its final norm if the encoder's is. A conditioned decoder has task
      vectors of its own.
  """

  alignment: bool = True
  attention: Attention | None = 'window'
  window: int = 22
  max_length: int = 512
  attention_per_head: bool = False
  norm: bool = True
  norm_layers: conditioning.Layers = 'upper_half'
  final_norm: bool = False
  bottleneck: BottleneckPosition | None = 'top'
  bottleneck_width: int | None = None
  bottleneck_activation: Activation = 'linear'
  decoder_alignment: bool = False
  decoder_norm: bool = False

  def __post_init__(self):
    for name, choices in (
      ('attention', (*get_args(Attention), None)),
      ('bottleneck', (*get_args(BottleneckPosition), None)),
      ('bottleneck_activation', get_args(Activation)),
    ):
      errors.check_choice(f'CAMTL.{name}', getattr(self, name), choices)
    for name in ('window', 'max_length', 'bottleneck_width'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise errors.UserError(
          f'CAMTL.{name}: got {value}, expected at least 1.'
        )
    conditioning.check_layers(self.norm_layers, 'CAMTL.norm_layers')
    for name, needed in (
      ('attention_per_head', 'attention'),
      ('final_norm', 'norm'),
      ('decoder_norm', 'norm'),
      ('decoder_alignment', 'alignment'),
    ):
      if getattr(self, name) and not getattr(self, needed):
        raise errors.UserError(
          f'CAMTL.{name} is True, but CAMTL.{needed} is off.'
        )
    components = ('alignment', 'attention', 'norm', 'bottleneck')
    if not any(getattr(self, name) for name in components):
      raise errors.UserError(
        f'CAMTL.{", CAMTL.".join(components)} are all off: nothing would be'
        ' conditioned. For a plain T5 set run.method = None.'
      )

  def extension_points(self) -> extension.ExtensionPoints:
    """Returns the points of T5 that this method replaces."""
    factories = {'condition': self._condition}
    if self.alignment:
      factories['after_embed'] = self._after_embed
    if self.attention:
      factories['attention_bias'] = self._attention_bias
    if self.norm:
      factories['norm'] = self._norm
    if self.bottleneck:
      factories['after_layers'] = self._after_layers
    if self.bottleneck == 'ladder':
      factories['side_start'] = _side_start
      factories['after_layer'] = self._after_layer
    limit = self.max_length if self.attention == 'window' else None
    return extension.ExtensionPoints(**factories, max_positions=limit)

  def fold(self, config, params: folding.Leaves, task_id: int):
    """Makes one task's norms plain ones; see `folding`.

    Raises:
      UserError: another component than the norms is conditioned.
    """
    folding.refuse_components(self, _NOT_PLAIN)
    folded = folding.without_conditions(params)
    for stack in folding.STACKS:
      norms = [f'{position}_norm' for position in self.norm_positions(stack)]
      norms += ['final_norm'] * bool(norms and self.final_norm)
      folded |= folding.film_norms(
        params, config, stack, norms, self.norm_layers, task_id
      )
    return folded

  def norm_positions(self, stack: str) -> tuple[str, ...]:
    """Returns the positions of a layer's conditioned norms."""
    if not self.norm or (stack == 'decoder' and not self.decoder_norm):
      return ()
    if stack == 'encoder':
      return 'attention', 'feed_forward'
    return 'attention', 'cross_attention', 'feed_forward'

  def aligns(self, stack: str) -> bool:
    """Returns whether the stack's embedded tokens are conditioned."""
    return self.alignment and (stack == 'encoder' or self.decoder_alignment)

  def _condition(self, site, *, rngs):
    if not (
      site.stack == 'encoder'
      or self.aligns(site.stack)
      or self.norm_positions(site.stack)
    ):
      return extension.no_condition(site, rngs=rngs)
    return TaskConditions(self, site, rngs=rngs)

  def _after_embed(self, site, *, rngs):
    if not self.aligns(site.stack):
      return extension.identity(site, rngs=rngs)
    return Alignment(site, rngs=rngs)

  def _attention_bias(self, site, *, rngs):
    if site.stack == 'decoder':
      return extension.no_attention_bias(site, rngs=rngs)
    return ConditionalAttentionBias(self, site, rngs=rngs)

  def _norm(self, site, *, rngs):
    positions = self.norm_positions(site.stack)
    is_final = bool(positions) and self.final_norm and site.position == 'final'
    if is_final or site.position in positions:
      return ConditionalNorm(site, rngs=rngs)
    return extension.rms_norm(site, rngs=rngs)

  def _after_layers(self, site, *, rngs):
    if site.stack == 'decoder':
      return extension.leave_side(site, rngs=rngs)
    if self.bottleneck == 'ladder':
      return lambda x, side, cond: x + side
    return TopBottleneck(self, site, rngs=rngs)

  def _after_layer(self, site, *, rngs):
    if site.stack == 'decoder':
      return extension.same_side(site, rngs=rngs)
    return Rung(self, site, rngs=rngs)


def _side_start(site, *, rngs):
  if site.stack == 'decoder':
    return extension.no_side(site, rngs=rngs)
  return lambda x, cond: jnp.zeros_like(x)


class TaskConditions(nnx.Module):
  """Task vectors, and the scales of the conditioned norms of a stack.

  The weights of the scales lie beside the layers, not in them, so that a stack
  with a few conditioned layers has exactly those layers' parameters and can
  still be scanned.
  """

  def __init__(self, method: CAMTL, site: extension.Site, *, rngs: nnx.Rngs):
    d = site.config.d_model
    self.num_layers = site.num_layers
    self.positions = method.norm_positions(site.stack)
    self.task_vectors = conditioning.TaskEmbedding(
      site.num_tasks, d, rngs=rngs, stddev=STDDEV
    )
    self.is_projected = bool(self.positions) or (
      site.stack == 'encoder' and bool(method.attention or method.bottleneck)
    )
    if self.is_projected:
      self.task_projection = task_projection(d, rngs=rngs)
    if self.positions:
      self.selected = conditioning.selected_layers(
        method.norm_layers, site.num_layers, 'CAMTL.norm_layers'
      )
    for position in self.positions:
      setattr(
        self,
        f'{position}_norm',
        film(d, rngs=rngs, num_layers=len(self.selected)),
      )
    self.has_final = bool(self.positions) and method.final_norm
    if self.has_final:
      self.final_norm = film(d, rngs=rngs)

  def __call__(self, inputs: extension.ConditionInputs) -> types.Conditioning:
    """Returns z, z', and gamma and beta of each norm, 0 where it is plain."""
    vector = self.task_vectors(inputs.task_ids)
    shared = {'vector': vector}
    if self.is_projected:
      shared['projected'] = self.task_projection(vector)
    if self.has_final:
      shared['final'] = self.final_norm(shared['projected'])
    per_layer = {
      position: tuple(
        self._by_layer(value)
        for value in getattr(self, f'{position}_norm')(shared['projected'])
      )
      for position in self.positions
    }
    return types.Conditioning(shared=shared, per_layer=per_layer)

  def _by_layer(self, values: Float[Array, 'n B D']) -> Float[Array, 'N B D']:
    if len(self.selected) == self.num_layers:
      return values
    by_layer = jnp.zeros((self.num_layers, *values.shape[1:]), values.dtype)
    return by_layer.at[jnp.array(self.selected)].set(values)


class Alignment(nnx.Module):
  """Conditional alignment, on the embedded tokens."""

  def __init__(self, site: extension.Site, *, rngs: nnx.Rngs):
    self.film = film(site.config.d_model, rngs=rngs)

  def __call__(self, x: Float[Array, 'B L D'], cond) -> Float[Array, 'B L D']:
    """Returns FiLM(z) of x."""
    return conditioning.modulate(x, *self.film(cond.shared['vector']))


class ConditionalNorm(layers.RMSNorm):
  """T5's norm with a scale per task; the plain scale keeps its name."""

  def __init__(self, site: extension.Site, *, rngs: nnx.Rngs):
    super().__init__(site.config, rngs=rngs)
    self.position = site.position

  def __call__(self, x: Float[Array, 'B L D'], cond) -> Float[Array, 'B L D']:
    """Normalises x, with the scale (1 + gamma) s + beta."""
    if self.position == 'final':
      gamma, beta = cond.shared['final']
    else:
      gamma, beta = cond.per_layer[self.position]
    scale = (1 + gamma) * self.scale[...][None, :] + beta
    return layers.rms_normalize(x, scale[:, None, :], self.epsilon).astype(
      self.dtype
    )


class ConditionalAttentionBias(nnx.Module):
  """One layer's blocks of attention bias, and the FiLM that modulates them."""

  def __init__(self, method: CAMTL, site: extension.Site, *, rngs: nnx.Rngs):
    w = method.window
    self.repeats = method.attention == 'shared_block'
    shape = (w if self.repeats else method.max_length, w)
    axes = ('length', 'window')
    if method.attention_per_head:
      shape, axes = (site.config.num_heads, *shape), ('heads', *axes)
    self.blocks = layers.parameter(rngs, shape, axes)
    self.film = conditioning.FiLM(
      (site.config.d_model, w), ('task_embed', 'window'), rngs=rngs
    )

  def __call__(self, segments: types.Segments, cond) -> Float[Array, 'B _ L L']:
    """Returns the bias of every row, by positions within the examples."""
    blocks = self.blocks[...]
    gamma, beta = self.film(cond.shared['projected'])
    return block_diagonal.attention_bias(
      blocks if blocks.ndim == 3 else blocks[None],
      gamma,
      beta,
      segments.positions,
      repeats=self.repeats,
    )


class Bottleneck(nnx.Module):
  """up(activation(down(FiLM(z'', RMS(x))))), with z'' = W' z' + b'."""

  def __init__(self, method: CAMTL, site: extension.Site, *, rngs: nnx.Rngs):
    d = site.config.d_model
    width = method.bottleneck_width or max(d // 3, 1)
    self.task_projection = task_projection(d, rngs=rngs)
    self.film = film(d, rngs=rngs)
    self.down = conditioning.Dense(
      (d, width), ('embed', 'bottleneck'), rngs=rngs, stddev=STDDEV
    )
    self.up = conditioning.Dense((width, d), ('bottleneck', 'embed'), rngs=rngs)
    self.activation = layers.ACTIVATIONS[method.bottleneck_activation]
    self.epsilon = site.config.layer_norm_epsilon

  def transform(
    self, x: Float[Array, 'B L D'], projected: Float[Array, 'B D']
  ) -> Float[Array, 'B L D']:
    """Returns what joins the residual stream or goes up the ladder."""
    gamma, beta = self.film(self.task_projection(projected))
    scale = jnp.ones(x.shape[-1], jnp.float32)
    y = layers.rms_normalize(x, scale, self.epsilon)
    y = conditioning.modulate(y, gamma, beta).astype(x.dtype)
    return self.up(self.activation(self.down(y)))


class TopBottleneck(Bottleneck):
  """The bottleneck after the last layer."""

  def __call__(self, x: Float[Array, 'B L D'], side, cond):
    """Adds the bottleneck's output to x."""
    return x + self.transform(x, cond.shared['projected'])


class Rung(Bottleneck):
  """The bottleneck of one layer of the ladder."""

  def __call__(self, x: Float[Array, 'B L D'], side, cond):
    """Returns the next side, from the layer's output and the side so far."""
    return self.transform(x + side, cond.shared['projected'])


def task_projection(d: int, *, rngs: nnx.Rngs) -> conditioning.Dense:
  """Builds a map from a task's vector to another."""
  return conditioning.Dense(
    (d, d), ('task_embed', 'task_embed'), rngs=rngs, stddev=STDDEV
  )


def film(
  d: int, *, rngs: nnx.Rngs, num_layers: int | None = None
) -> conditioning.FiLM:
  """Builds FiLM from a task's vector to features of the residual stream."""
  return conditioning.FiLM(
    (d, d), ('task_embed', 'embed'), rngs=rngs, num_layers=num_layers
  )

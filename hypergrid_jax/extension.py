"""Where a method may change T5: one factory per point, plain T5 by default.

`T5` calls every point, always, under a fixed attribute name; a method is an
`ExtensionPoints` with some factories replaced. A factory gets a `Site` (where
in the model it is) and `rngs`, and returns an `nnx.Module` or a function.
Modules that replace a plain part keep its parameter names, so that a plain T5
checkpoint loads into every method.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, Literal

from flax import nnx
from jaxtyping import Array

from hypergrid_jax import errors, layers, types
from hypergrid_jax.t5_config import T5Config


@dataclasses.dataclass(frozen=True)
class Site:
  """Where a module is being built.

  Attributes:
    config: the T5 it is part of.
    stack: 'encoder' or 'decoder'.
    num_tasks: how many task ids exist.
    position: for norms, which one: before 'attention', 'cross_attention',
      'feed_forward', or the stack's 'final' one; '' elsewhere.
  """

  config: T5Config
  stack: Literal['encoder', 'decoder']
  num_tasks: int
  position: str = ''

  @property
  def num_layers(self) -> int:
    """Layers of this stack."""
    if self.stack == 'encoder':
      return self.config.num_layers
    return self.config.num_decoder_layers


@dataclasses.dataclass(frozen=True)
class ConditionInputs:
  """What the `condition` point of a stack sees.

  Attributes:
    task_ids: [B] int32.
    segments: of this stack.
    encoder_output: [B, Le, D] after the final norm; None in the encoder.
    encoder_segments: of the encoder; None in the encoder.
  """

  task_ids: Array
  segments: types.Segments
  encoder_output: Array | None = None
  encoder_segments: types.Segments | None = None


def no_condition(site: Site, *, rngs: nnx.Rngs):
  """Plain T5 is conditioned on nothing."""
  del site, rngs
  return lambda inputs: types.Conditioning()


def identity(site: Site, *, rngs: nnx.Rngs):
  """A point that passes its first argument on."""
  del site, rngs
  return lambda x, conditioning: x


def no_attention_bias(site: Site, *, rngs: nnx.Rngs):
  """A point that adds nothing to the self-attention logits."""
  del site, rngs
  return lambda segments, conditioning: None


def rms_norm(site: Site, *, rngs: nnx.Rngs) -> layers.RMSNorm:
  """T5's own norm."""
  return layers.RMSNorm(site.config, rngs=rngs)


def mlp_block(site: Site, *, rngs: nnx.Rngs) -> layers.MlpBlock:
  """T5's own feed-forward layer."""
  return layers.MlpBlock(site.config, rngs=rngs)


Factory = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class ExtensionPoints:
  """The factories of one model; `ExtensionPoints()` is plain T5.

  Attributes:
    condition: `(ConditionInputs) -> Conditioning`, once per stack, before the
      layers.
    after_embed: `(x [B, L, D], cond) -> x`, on the embedded tokens.
    norm: `(x [B, L, D], cond) -> x`, at every norm; `Site.position` tells
      which.
    attention_bias: `(segments, cond) -> [B|1, H|1, L, L] or None`, added to
      the self-attention logits of a layer.
    feed_forward: `(x, cond, segments, dropout_key=) -> x`.
    after_attention: `(y, cond) -> y`, on the self-attention output, before
      dropout and the residual add.
    after_feed_forward: `(y, cond) -> y`, likewise on the feed-forward output.
  """

  condition: Factory = no_condition
  after_embed: Factory = identity
  norm: Factory = rms_norm
  attention_bias: Factory = no_attention_bias
  feed_forward: Factory = mlp_block
  after_attention: Factory = identity
  after_feed_forward: Factory = identity


def combine(**methods: ExtensionPoints) -> ExtensionPoints:
  """Joins methods that touch different points into one model.

  Args:
    **methods: extension points by the method's name.

  Returns:
    Points with every method's factories.

  Raises:
    UserError: two methods replace the same point; both are named.
  """
  plain = ExtensionPoints()
  taken: dict[str, tuple[str, Factory]] = {}
  for method, points in methods.items():
    for field in dataclasses.fields(ExtensionPoints):
      factory = getattr(points, field.name)
      if factory is getattr(plain, field.name):
        continue
      if field.name in taken:
        raise errors.UserError(
          f'Methods {taken[field.name][0]!r} and {method!r} both replace the'
          f' extension point {field.name!r}; a model can have only one of them'
          ' there. Drop one, or switch that part of it off.'
        )
      taken[field.name] = (method, factory)
  return ExtensionPoints(**{name: item[1] for name, item in taken.items()})


def layer_slice(
  conditioning: types.Conditioning, per_layer: Any
) -> types.Conditioning:
  """The conditioning one layer sees: all of `shared`, its own `per_layer`."""
  return types.Conditioning(shared=conditioning.shared, per_layer=per_layer)

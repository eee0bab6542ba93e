"""Where a method may change T5: one factory per point, plain T5 by default.

`T5` calls every point, always, under a fixed attribute name; a method is an
`ExtensionPoints` with some factories replaced. A factory gets a `Site` (where
in the model it is) and `rngs`, and returns an `nnx.Module` or a function.
Modules that replace a plain part keep its parameter names, so that a plain T5
checkpoint loads into every method.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, Literal

from flax import nnx
from jaxtyping import Array

from hypergrid_jax import errors, types
from hypergrid_jax.model import layers
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.parallel import partitioning


@dataclasses.dataclass(frozen=True)
class Site:
  """Where a module is being built.

  Attributes:
    config: the T5 it is part of.
    stack: 'encoder' or 'decoder'; 'both' at `task_vectors`, which they share.
    num_tasks: how many task ids exist.
    position: for norms, which one: before 'attention', 'cross_attention',
      'feed_forward', or the stack's 'final' one; '' elsewhere.
    rules: how logical axes are divided over the mesh.
  """

  config: T5Config
  stack: Literal['encoder', 'decoder', 'both']
  num_tasks: int
  position: str = ''
  rules: partitioning.Rules = dataclasses.field(
    default_factory=lambda: partitioning.DEFAULT_RULES
  )

  def placed(self, *axes: str) -> Callable[[Array], Array]:
    """A function that lays a value of these logical axes over the mesh."""
    return functools.partial(
      partitioning.constrain, axes=axes, rules=self.rules
    )

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
    task_vectors: [T, E] of the `task_vectors` point, or None.
    encoder_output: [B, Le, D] after the final norm; None in the encoder.
    encoder_segments: of the encoder; None in the encoder.
  """

  task_ids: Array
  segments: types.Segments
  task_vectors: Array | None = None
  encoder_output: Array | None = None
  encoder_segments: types.Segments | None = None


def no_task_vectors(site: Site, *, rngs: nnx.Rngs):
  """Plain T5 has nothing that both stacks know of a task."""
  del site, rngs
  return lambda: None


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


def no_side(site: Site, *, rngs: nnx.Rngs):
  """Plain T5 carries nothing beside the residual stream."""
  del site, rngs
  return lambda x, conditioning: None


def same_side(site: Site, *, rngs: nnx.Rngs):
  """A point that passes the side on as it is."""
  del site, rngs
  return lambda x, side, conditioning: side


def leave_side(site: Site, *, rngs: nnx.Rngs):
  """A point that makes no use of the side."""
  del site, rngs
  return lambda x, side, conditioning: x


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
    task_vectors: `() -> [T, E] or None`, one vector per task, shared by both
      stacks, whose `condition` gets them.
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
    side_start: `(x, cond) -> side`, on the input of the first layer: what a
      path beside the layers begins with. Any pytree of arrays.
    after_layer: `(x, side, cond) -> side`, on every layer's output; a side
      like the one it gets.
    after_layers: `(x, side, cond) -> x`, on the last layer's output, before
      the final norm.
    max_positions: tokens that an example may have, where a method's parameters
      end with some position; None for any number.
    parts: pairs (point, method) of combined methods, see `conditionings`.
  """

  task_vectors: Factory = no_task_vectors
  condition: Factory = no_condition
  after_embed: Factory = identity
  norm: Factory = rms_norm
  attention_bias: Factory = no_attention_bias
  feed_forward: Factory = mlp_block
  after_attention: Factory = identity
  after_feed_forward: Factory = identity
  side_start: Factory = no_side
  after_layer: Factory = same_side
  after_layers: Factory = leave_side
  max_positions: int | None = None
  parts: tuple[tuple[str, str], ...] = ()


POINTS = tuple(
  field.name
  for field in dataclasses.fields(ExtensionPoints)
  if field.type == Factory
)


def combine(**methods: ExtensionPoints) -> ExtensionPoints:
  """Joins methods that touch different points into one model.

  Every method may have a `condition`: they all run, their parameters keep
  their names, and at each point the method there sees what its own condition
  made.

  Args:
    **methods: extension points by the method's name.

  Returns:
    Points with every method's factories.

  Raises:
    UserError: two methods replace the same point; both are named.
  """
  plain = ExtensionPoints()
  taken: dict[str, str] = {}
  conditions: dict[str, Factory] = {}
  for method, points in methods.items():
    for point in POINTS:
      factory = getattr(points, point)
      if factory is getattr(plain, point):
        continue
      if point == 'condition':
        conditions[method] = factory
      elif point in taken:
        raise errors.UserError(
          f'Methods {taken[point]!r} and {method!r} both replace the'
          f' extension point {point!r}; a model can have only one of them'
          ' there. Drop one, or switch that part of it off.'
        )
      else:
        taken[point] = method
  factories = {
    point: getattr(methods[name], point) for point, name in taken.items()
  }
  limits = [points.max_positions for points in methods.values()]
  limit = min((n for n in limits if n is not None), default=None)
  if len(conditions) == 1:
    (factories['condition'],) = conditions.values()
  if len(conditions) < 2:
    return ExtensionPoints(**factories, max_positions=limit)
  return ExtensionPoints(
    **factories,
    condition=functools.partial(_JoinedConditions, conditions),
    max_positions=limit,
    parts=tuple(taken.items()),
  )


def of_methods(method: Any) -> ExtensionPoints:
  """The points of a run's method.

  Args:
    method: a method's configuration, which has `extension_points()`; a tuple
      of them; or None for plain T5.

  Raises:
    UserError: two methods replace the same point, or are the same method.
  """
  methods = () if method is None else method
  if not isinstance(methods, tuple):
    methods = (methods,)
  named: dict[str, ExtensionPoints] = {}
  for one in methods:
    name = type(one).__name__
    if name in named:
      raise errors.UserError(f'The method {name!r} is there twice.')
    named[name] = one.extension_points()
  return combine(**named)


class _JoinedConditions(nnx.Module):
  """The `condition` modules of several methods.

  Their parameters become this module's own, so that their paths are the same
  as in a model with one of the methods alone.
  """

  def __init__(
    self, factories: Mapping[str, Factory], site: Site, *, rngs: nnx.Rngs
  ):
    graphs, owners = [], {}
    for method, factory in factories.items():
      module = factory(site, rngs=rngs)
      if not isinstance(module, nnx.Module):
        graphs.append((method, module, ()))
        continue
      graph, state = nnx.split(module)
      for name in state:
        if name in owners:
          raise errors.UserError(
            f'Methods {owners[name]!r} and {method!r} both have parameters'
            f' named {site.stack}/condition/{name}, so they cannot be combined.'
          )
        owners[name] = method
        setattr(self, name, getattr(module, name))
      graphs.append((method, graph, tuple(state)))
    self.graphs = tuple(graphs)

  def __call__(self, inputs: ConditionInputs) -> types.Conditioning:
    """Runs every method's condition; what they make is kept by method."""
    state = nnx.state(self)
    made = {}
    for method, condition, names in self.graphs:
      if isinstance(condition, nnx.GraphDef):
        own = nnx.State({name: state[name] for name in names})
        condition = nnx.merge(condition, own)
      made[method] = condition(inputs)
    return types.Conditioning(
      shared={method: part.shared for method, part in made.items()},
      per_layer={method: part.per_layer for method, part in made.items()},
    )


def conditionings(
  conditioning: types.Conditioning, parts: tuple[tuple[str, str], ...]
) -> Mapping[str, types.Conditioning]:
  """What each point sees: with combined methods, what its own method made."""
  seen = dict.fromkeys(POINTS, conditioning)
  for point, method in parts:
    seen[point] = types.Conditioning(
      shared=conditioning.shared.get(method),
      per_layer=conditioning.per_layer.get(method),
    )
  return seen


def layer_slice(
  conditioning: types.Conditioning, per_layer: Any
) -> types.Conditioning:
  """The conditioning one layer sees: all of `shared`, its own `per_layer`."""
  return types.Conditioning(shared=conditioning.shared, per_layer=per_layer)

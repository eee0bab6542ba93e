"""Where a method may change T5: one factory per point, plain T5 by default.

`T5` calls every point, always, under a fixed attribute name; a method is an
`ExtensionPoints` with some factories replaced. A factory gets a `Site` (where
in the model it is) and `rngs`, and returns an `nnx.Module` or a function with
the point's signature, which a `Protocol` below states. Modules that replace a
plain one keep its parameter names, so that a plain T5 checkpoint loads into
every method.

The argument `cond` of a point is what its own method's `condition` returned.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from flax import nnx
from jaxtyping import Array

from hypergrid_jax import errors, types
from hypergrid_jax.model import layers
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.parallel import partitioning

# The name of a method whose points are used without `of_methods`.
UNNAMED = 'method'


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

  def constrain(self, *axes: str) -> Callable[[Array], Array]:
    """Returns a sharding constraint for values with these logical axes."""
    return functools.partial(
      partitioning.constrain, axes=axes, rules=self.rules
    )

  @property
  def num_layers(self) -> int:
    """Number of layers of this stack."""
    if self.stack == 'encoder':
      return self.config.num_layers
    return self.config.num_decoder_layers


@dataclasses.dataclass(frozen=True)
class ConditionInputs:
  """The inputs of a stack's `condition` point.

  Attributes:
    task_ids: [B] int32.
    segments: the examples in the stack's own rows.
    task_vectors: [T, E] from the `task_vectors` point, or None.
    encoder_output: [B, Le, D] after the final norm; None in the encoder.
    encoder_segments: the encoder's segments; None in the encoder.
  """

  task_ids: Array
  segments: types.Segments
  task_vectors: Array | None = None
  encoder_output: Array | None = None
  encoder_segments: types.Segments | None = None


@runtime_checkable
class TaskVectors(Protocol):
  """One vector per task, shared by both stacks, whose `condition` gets them."""

  def __call__(self) -> Array | None:
    """Returns [T, E], or None."""


@runtime_checkable
class Condition(Protocol):
  """What a method makes of its inputs once per stack, before the layers."""

  def __call__(self, inputs: ConditionInputs) -> types.Conditioning:
    """Returns what the method's other points see."""


@runtime_checkable
class Transform(Protocol):
  """A function of activations: a norm, or what follows some layer's output."""

  def __call__(self, x: Array, cond: types.Conditioning, /) -> Array:
    """Maps [B, L, D] to [B, L, D]."""


@runtime_checkable
class AttentionBias(Protocol):
  """A bias on the self-attention logits of a layer."""

  def __call__(
    self, segments: types.Segments, cond: types.Conditioning, /
  ) -> Array | None:
    """Returns [B|1, H|1, L, L], or None for no bias."""


@runtime_checkable
class FeedForward(Protocol):
  """The feed-forward layer."""

  def __call__(
    self,
    x: Array,
    cond: types.Conditioning,
    segments: types.Segments,
    /,
    *,
    dropout_key: Array | None,
  ) -> Array:
    """Maps [B, L, D] to [B, L, D]; None switches dropout off."""


@runtime_checkable
class SideStart(Protocol):
  """The start of a side path that runs beside the residual stream."""

  def __call__(self, x: Array, cond: types.Conditioning, /) -> Any:
    """Returns any pytree of arrays, given the first layer's input."""


@runtime_checkable
class SideStep(Protocol):
  """One layer's step of the side path."""

  def __call__(self, x: Array, side: Any, cond: types.Conditioning, /) -> Any:
    """Returns the next side, of the same structure, given a layer's output."""


@runtime_checkable
class SideEnd(Protocol):
  """The end of the side path."""

  def __call__(self, x: Array, side: Any, cond: types.Conditioning, /) -> Array:
    """Returns the final norm's input, given the last layer's output."""


Point = TypeVar('Point', covariant=True)


@runtime_checkable
class Factory(Protocol[Point]):
  """Builds the module of one point."""

  def __call__(self, site: Site, *, rngs: nnx.Rngs) -> Point:
    """Returns an `nnx.Module` or a function with the point's signature."""


def no_task_vectors(site: Site, *, rngs: nnx.Rngs) -> TaskVectors:
  """Builds plain T5's task vectors: none."""
  del site, rngs
  return lambda: None


def no_condition(site: Site, *, rngs: nnx.Rngs) -> Condition:
  """Builds plain T5's condition, which returns nothing."""
  del site, rngs
  return lambda inputs: types.Conditioning()


def identity(site: Site, *, rngs: nnx.Rngs) -> Transform:
  """Builds a point that returns its input."""
  del site, rngs
  return lambda x, cond: x


def no_attention_bias(site: Site, *, rngs: nnx.Rngs) -> AttentionBias:
  """Builds a point that adds nothing to the self-attention logits."""
  del site, rngs
  return lambda segments, cond: None


def no_side(site: Site, *, rngs: nnx.Rngs) -> SideStart:
  """Builds plain T5's side path: none."""
  del site, rngs
  return lambda x, cond: None


def same_side(site: Site, *, rngs: nnx.Rngs) -> SideStep:
  """Builds a point that passes the side path on as it is."""
  del site, rngs
  return lambda x, side, cond: side


def leave_side(site: Site, *, rngs: nnx.Rngs) -> SideEnd:
  """Builds a point that makes no use of the side path."""
  del site, rngs
  return lambda x, side, cond: x


def rms_norm(site: Site, *, rngs: nnx.Rngs) -> Transform:
  """Builds T5's own norm."""
  return layers.RMSNorm(site.config, rngs=rngs)


def mlp_block(site: Site, *, rngs: nnx.Rngs) -> FeedForward:
  """Builds T5's own feed-forward layer."""
  return layers.MlpBlock(site.config, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class ExtensionPoints:
  """The factories of one model; `ExtensionPoints()` is plain T5.

  Attributes:
    task_vectors: a vector per task, for both stacks.
    condition: called once per stack, before the layers.
    after_embed: acts on the embedded tokens.
    norm: every norm; `Site.position` says which.
    attention_bias: added to the self-attention logits of a layer.
    feed_forward: the feed-forward layer.
    after_attention: acts on the self-attention's output, before dropout and
      the residual add.
    after_feed_forward: acts on the feed-forward's output, before dropout and
      the residual add.
    side_start: what a path beside the layers begins with.
    after_layer: the side path's step at every layer.
    after_layers: joins the side path to the last layer's output.
    max_positions: tokens that an example may have, where a method's parameters
      end with some position; None for any number.
    conditions: set by `combine`: each method's `condition` by its name.
    owners: set by `combine`: pairs of a point and the method that replaces it.
  """

  task_vectors: Factory[TaskVectors] = no_task_vectors
  condition: Factory[Condition] = no_condition
  after_embed: Factory[Transform] = identity
  norm: Factory[Transform] = rms_norm
  attention_bias: Factory[AttentionBias] = no_attention_bias
  feed_forward: Factory[FeedForward] = mlp_block
  after_attention: Factory[Transform] = identity
  after_feed_forward: Factory[Transform] = identity
  side_start: Factory[SideStart] = no_side
  after_layer: Factory[SideStep] = same_side
  after_layers: Factory[SideEnd] = leave_side
  max_positions: int | None = None
  conditions: Mapping[str, Factory[Condition]] = dataclasses.field(
    default_factory=dict
  )
  owners: tuple[tuple[str, str], ...] = ()


POINTS = tuple(
  field.name
  for field in dataclasses.fields(ExtensionPoints)
  if field.name not in ('max_positions', 'conditions', 'owners')
)


class Conditions(nnx.Module):
  """Every method's `condition` in one stack, each under its method's name."""

  def __init__(self, points: ExtensionPoints, site: Site, *, rngs: nnx.Rngs):
    conditions = points.conditions or {UNNAMED: points.condition}
    self.methods = tuple(conditions)
    for method, factory in conditions.items():
      setattr(self, method, factory(site, rngs=rngs))

  def __call__(self, inputs: ConditionInputs) -> dict[str, types.Conditioning]:
    """Returns each method's conditioning by its name."""
    return {method: getattr(self, method)(inputs) for method in self.methods}


def combine(**methods: ExtensionPoints) -> ExtensionPoints:
  """Joins methods that replace different points into one model.

  Every method may have a `condition`: they all run, and at each point the
  method there sees what its own condition returned.

  Args:
    **methods: extension points by the method's name.

  Returns:
    Points with every method's factories.

  Raises:
    UserError: two methods replace the same point; both are named.
  """
  plain = ExtensionPoints()
  owners: dict[str, str] = {}
  conditions: dict[str, Factory[Condition]] = {}
  for method, points in methods.items():
    for point in POINTS:
      factory = getattr(points, point)
      if factory is getattr(plain, point):
        continue
      if point == 'condition':
        conditions[method] = factory
      elif point in owners:
        raise errors.UserError(
          f'Methods {owners[point]!r} and {method!r} both replace the'
          f' extension point {point!r}; a model can have only one of them'
          ' there. Drop one, or switch that part of it off.'
        )
      else:
        owners[point] = method
  factories = {
    point: getattr(methods[method], point) for point, method in owners.items()
  }
  limits = [points.max_positions for points in methods.values()]
  return ExtensionPoints(
    **factories,
    max_positions=min((n for n in limits if n is not None), default=None),
    conditions=conditions,
    owners=tuple(owners.items()),
  )


def of_methods(method: Any) -> ExtensionPoints:
  """Returns the points of a run's method.

  Args:
    method: a method's configuration, which has `extension_points()`; a tuple
      of them; or None for plain T5.

  Raises:
    UserError: two methods replace the same point, or are the same method.
  """
  methods = () if method is None else method
  if not isinstance(methods, tuple):
    methods = (methods,)
  points: dict[str, ExtensionPoints] = {}
  for each in methods:
    name = type(each).__name__
    if name in points:
      raise errors.UserError(f'The method {name!r} is there twice.')
    points[name] = each.extension_points()
  return combine(**points)


def by_point(
  conditioning: Mapping[str, types.Conditioning],
  owners: tuple[tuple[str, str], ...],
) -> dict[str, types.Conditioning]:
  """Returns what each point sees: the conditioning of its own method."""
  unowned = conditioning.get(UNNAMED, types.Conditioning())
  seen = dict.fromkeys(POINTS, unowned)
  for point, method in owners:
    seen[point] = conditioning.get(method, unowned)
  return seen


def per_layer(conditioning: Mapping[str, types.Conditioning]) -> dict[str, Any]:
  """Returns the leaves that differ between layers, [N, ...], by method."""
  return {method: cond.per_layer for method, cond in conditioning.items()}


def of_layer(
  conditioning: Mapping[str, types.Conditioning], layer: Mapping[str, Any]
) -> dict[str, types.Conditioning]:
  """Returns what one layer sees: all of `shared`, its own `per_layer`."""
  return {
    method: types.Conditioning(shared=cond.shared, per_layer=layer[method])
    for method, cond in conditioning.items()
  }

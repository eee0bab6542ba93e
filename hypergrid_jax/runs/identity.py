"""What makes two runs the same: everything that decides what a step computes.

A run goes on in its directory only as the same run. How a step is computed may
change on the way, as with the machine: the dtype of activations, what is
recomputed, the mesh. How long it trains and how often it saves may, too.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
from typing import Any

from hypergrid_jax import trees

# The fields that decide, by part of the configuration. Of the parts that are
# not named here (method, sampler, optimizer, schedule) every field does.
FIELDS = {
  'model': (
    'd_model',
    'd_ff',
    'num_heads',
    'd_kv',
    'num_layers',
    'num_decoder_layers',
    'vocab_size',
    'relative_buckets',
    'relative_max_distance',
    'relative_bias_stddev',
    'dropout_rate',
    'mlp_activations',
    'logits_via_embedding',
    'layer_norm_epsilon',
  ),
  'train': (
    'seed',
    'microbatches',
    'label_smoothing',
    'z_loss',
    'loss_normalization',
    'clip_norm',
    'initial_checkpoint',
    'trainable',
  ),
  'data': (
    'mixture',
    'inputs_length',
    'targets_length',
    'row_length',
    'row_targets_length',
    'max_segments',
    'batch_size',
    'pack',
    'length_buckets',
    'task_prefix',
    'protocol',
    'mixing',
    'rate_cap',
    'temperature',
    'weights',
    'tasks_per_batch',
  ),
}


def described(
  configs: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns an identity as JSON, for run.json and checkpoints.

  Args:
    configs: configurations by part of the run: a dataclass, a tuple of several
      or None.
    data: JSON by name: what was read, such as fingerprints of the data.
  """
  parts = {part: _part(part, config) for part, config in configs.items()}
  return json.loads(json.dumps({**parts, **data}))


def differences(
  saved: Mapping[str, Any], configs: Mapping[str, Any], data: Mapping[str, Any]
) -> list[str]:
  """Compares an identity that was saved with that of a run.

  A field that a configuration did not have when it was saved counts as having
  its default; what was saved beyond the fields that decide is ignored.

  Args:
    saved: from `described`, perhaps of an earlier version of the library.
    configs: see `described`.
    data: see `described`.

  Returns:
    A line 'NAME: VALUE there, VALUE here' for everything that differs.
  """
  there: dict[str, Any] = {}
  for part, config in configs.items():
    there[part] = _completed(part, saved.get(part), config)
  there |= {name: saved[name] for name in data if name in saved}
  return list(_lines(trees.flatten(there), described(configs, data)))


def _lines(there: dict[str, Any], current: dict[str, Any]) -> Iterator[str]:
  here = trees.flatten(current)
  for name in sorted({*there, *here}):
    values = [side.get(name, 'absent') for side in (there, here)]
    if values[0] != values[1]:
      yield f'{name}: {values[0]!r} there, {values[1]!r} here'


def _part(part: str, config: Any) -> Any:
  if config is None:
    return None
  if isinstance(config, tuple):
    return [_part(part, each) for each in config]
  values = {name: getattr(config, name) for name in _fields(part, config)}
  return values if part in FIELDS else {'name': _name(config), **values}


def _fields(part: str, config: Any) -> tuple[str, ...]:
  names = tuple(field.name for field in dataclasses.fields(config))
  return FIELDS.get(part, names)


def _name(config: Any) -> str:
  return type(config).__name__


def _completed(part: str, saved: Any, config: Any) -> Any:
  """Returns the saved values of the fields that `config` has."""
  if isinstance(config, tuple) and isinstance(saved, list):
    if len(config) == len(saved):
      pairs = zip(saved, config, strict=True)
      return [_completed(part, each, one) for each, one in pairs]
  if not isinstance(saved, dict) or config is None or isinstance(config, tuple):
    return saved
  if part not in FIELDS:
    # Classes of methods once had names that end so.
    name = saved.get('name', '').removesuffix('Config')
    if name != _name(config):
      return {**saved, 'name': name}
    saved = {**saved, 'name': name}
  defaults = {
    field.name: field.default
    for field in dataclasses.fields(config)
    if field.default is not dataclasses.MISSING
  }
  completed = json.loads(json.dumps(defaults)) | saved
  names = ('name', *_fields(part, config))
  return {name: completed[name] for name in names if name in completed}

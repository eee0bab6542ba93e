"""config.json of Hugging Face transformers to our sizes, and back."""

from collections.abc import Mapping
import pathlib
from typing import Any

from hypergrid_jax import errors
from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import json_files
from hypergrid_jax.model.config import T5Config

MODEL_TYPES = ('t5', 'mt5')
# Why relatives of T5 are not T5s; others are refused without a reason.
OTHER_TYPES = {
  'umt5': 'it has a position bias in every layer',
  'longt5': 'its encoder attends locally',
  'switch_transformers': 'its feed-forward layers are mixtures of experts',
  't5gemma': 'its layers are those of Gemma',
  't5gemma2': 'its layers are those of Gemma',
}
# Our activations, and `feed_forward_proj`. T5's gelu is the tanh form, which
# transformers calls gelu_new; of 'gated-gelu' it means the same.
PROJECTIONS = {
  ('relu',): 'relu',
  ('gelu',): 'gelu_new',
  ('gelu', 'linear'): 'gated-gelu',
  ('relu', 'linear'): 'gated-relu',
}
_ACTIVATIONS = {
  **{name: ours for ours, name in PROJECTIONS.items()},
  'gated-gelu_new': ('gelu', 'linear'),
}
# Our field, theirs, and its value where the file leaves it out; None: it may
# not. These defaults are transformers'.
_INTEGERS = (
  ('d_model', 'd_model', None),
  ('d_ff', 'd_ff', None),
  ('num_heads', 'num_heads', None),
  ('d_kv', 'd_kv', None),
  ('num_layers', 'num_layers', None),
  ('vocab_size', 'vocab_size', None),
  ('relative_buckets', 'relative_attention_num_buckets', 32),
  ('relative_max_distance', 'relative_attention_max_distance', 128),
)
_NUMBERS = (
  ('dropout_rate', 'dropout_rate', 0.1),
  ('layer_norm_epsilon', 'layer_norm_epsilon', 1e-6),
)
_MOST_LAYERS = 1000  # each has tensors of its own to be looked for
# Ids that T5 has and this library takes for granted.
_IDS = {'pad_token_id': 0, 'eos_token_id': 1, 'decoder_start_token_id': 0}


def read(path: pathlib.Path) -> T5Config:
  """Reads a config.json.

  `logits_via_embedding` says whether the output is scaled by d_model**-0.5;
  that it is also tied, the tensors have to show.

  Raises:
    UserError: it is of another model than a T5, or a field is missing or has
      a value that this library's T5 lacks.
  """
  values = json_files.read_object(path)
  kind = values.get('model_type')
  if kind not in MODEL_TYPES:
    reason = OTHER_TYPES.get(kind) if isinstance(kind, str) else None
    raise UserError(
      f'{path}: model_type is {kind!r}, expected one of {MODEL_TYPES}'
      f'{": " + reason if reason else ""}.'
    )
  for name, wanted in _IDS.items():
    value = values.get(name)
    if value is not None and value != wanted:
      raise UserError(
        f'{path}: {name} is {value!r}, but this library takes {wanted}.'
      )
  fields: dict[str, Any] = {
    ours: _integer(path, values, theirs, default)
    for ours, theirs, default in _INTEGERS
  }
  fields |= {
    ours: _number(path, values, theirs, default)
    for ours, theirs, default in _NUMBERS
  }
  decoder = _integer(path, values, 'num_decoder_layers', fields['num_layers'])
  if max(fields['num_layers'], decoder) > _MOST_LAYERS:
    raise UserError(f'{path}: more than {_MOST_LAYERS} layers.')
  try:
    return T5Config(
      **fields,
      num_decoder_layers=decoder,
      mlp_activations=_activations(path, values),
      logits_via_embedding=_scales_output(values),
    )
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def write(config: T5Config, *, dtype: str) -> dict[str, Any]:
  """Returns the content of config.json.

  Args:
    config: of a plain T5.
    dtype: of the tensors in the files.

  Raises:
    UserError: transformers' T5 has no such activations.
  """
  projection = PROJECTIONS.get(config.mlp_activations)
  if projection is None:
    raise UserError(
      f'T5Config.mlp_activations = {config.mlp_activations!r}: transformers has'
      f' no such feed-forward layer; it has {list(PROJECTIONS)}.'
    )
  return {
    'architectures': ['T5ForConditionalGeneration'],
    'model_type': 't5',
    **{
      theirs: getattr(config, ours)
      for ours, theirs, _ in (*_INTEGERS, *_NUMBERS)
    },
    'num_decoder_layers': config.num_decoder_layers,
    'feed_forward_proj': projection,
    'tie_word_embeddings': config.logits_via_embedding,
    'is_encoder_decoder': True,
    'use_cache': True,
    **_IDS,
    'dtype': dtype,
  }


def write_generation() -> dict[str, Any]:
  """Returns the content of generation_config.json: greedy, as we decode."""
  return {**_IDS, 'do_sample': False, 'num_beams': 1}


def _integer(
  path: pathlib.Path, values: Mapping[str, Any], name: str, default: int | None
) -> int:
  value = values.get(name)
  value = default if value is None else value
  if value is None:
    hint = errors.closest(name, values)
    raise UserError(f'{path} lacks the field {name!r}.{hint}')
  if type(value) is not int or not 1 <= value < 2**31:
    raise UserError(
      f'{path}: {name} is {value!r}, expected a positive integer.'
    )
  return value


def _number(
  path: pathlib.Path, values: Mapping[str, Any], name: str, default: float
) -> float:
  value = values.get(name, default)
  if type(value) not in (int, float) or not 0 <= value < 1:
    raise UserError(
      f'{path}: {name} is {value!r}, expected a number in [0, 1).'
    )
  return float(value)


def _activations(
  path: pathlib.Path, values: Mapping[str, Any]
) -> tuple[str, ...]:
  projection = values.get('feed_forward_proj', 'relu')
  found = _ACTIVATIONS.get(projection) if isinstance(projection, str) else None
  if found is None:
    raise UserError(
      f'{path}: feed_forward_proj is {projection!r}, expected one of'
      f' {list(_ACTIVATIONS)}.'
      f'{errors.closest(str(projection), _ACTIVATIONS)}'
    )
  return found


def _scales_output(values: Mapping[str, Any]) -> bool:
  # Version 5 of transformers writes tie_word_embeddings as true for every T5,
  # and says beside it what follows from the value that it was given.
  if isinstance(values.get('scale_decoder_outputs'), bool):
    return values['scale_decoder_outputs']
  return values.get('tie_word_embeddings') is not False

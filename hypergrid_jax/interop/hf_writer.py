"""Writes a directory that transformers reads as a T5."""

from collections.abc import Mapping
import json
import pathlib
import re
import shutil

import numpy as np
import safetensors.numpy

from hypergrid_jax import atomic_files
from hypergrid_jax.data import vocabularies
from hypergrid_jax.interop import hf_config, hf_files, names
from hypergrid_jax.t5_config import T5Config

DTYPE = 'float32'
_UNITS = {'': 1, 'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}


def parse_size(text: str) -> int:
  """Bytes of a size such as '5GB' or '300MB', units of 1000.

  Raises:
    ValueError: it is no size.
  """
  found = re.fullmatch(r'(\d+) ?([KMG]?B?)', text.upper())
  if not found or found[2] not in _UNITS or not int(found[1]):
    raise ValueError(text)
  return int(found[1]) * _UNITS[found[2]]


def write_model(
  directory: pathlib.Path,
  config: T5Config,
  params: Mapping[str, np.ndarray],
  *,
  max_shard_size: int,
) -> list[str]:
  """Writes the two configurations and the tensors.

  Args:
    directory: to write to.
    config: of a plain T5.
    params: its parameters by path, float32.
    max_shard_size: bytes of a file at most, if one tensor is not larger.

  Returns:
    The names of the files with tensors.

  Raises:
    UserError: transformers has no such T5.
  """
  _write_json(directory / hf_files.CONFIG, hf_config.write(config, dtype=DTYPE))
  _write_json(
    directory / 'generation_config.json', hf_config.write_generation()
  )
  shards = _shards(config, max_shard_size)
  mapping = {}
  for number, shard in enumerate(shards, 1):
    file = hf_files.WEIGHTS
    if len(shards) > 1:
      file = f'model-{number:05}-of-{len(shards):05}.safetensors'
    mapping |= dict.fromkeys(shard, file)
    tensors = {
      name: np.ascontiguousarray(_tensor(params, row, layer))
      for name, (row, layer) in shard.items()
    }
    # transformers asks for this mark of who has written the file.
    safetensors.numpy.save_file(
      tensors, directory / file, metadata={'format': 'pt'}
    )
  if len(shards) > 1:
    size = sum(
      4 * int(np.prod(row.their_shape('hf')))
      for shard in shards
      for row, _ in shard.values()
    )
    _write_json(
      directory / hf_files.INDEX,
      {'metadata': {'total_size': size}, 'weight_map': mapping},
    )
  return sorted(set(mapping.values()))


def write_tokenizer(directory: pathlib.Path, spec: str) -> bool:
  """Writes the files from which AutoTokenizer makes the run's vocabulary.

  Args:
    directory: to write to.
    spec: of the vocabulary, as in `DataConfig`.

  Returns:
    Whether there are such files; only SentencePiece has them.

  Raises:
    UserError: the vocabulary cannot be read.
  """
  vocabulary = vocabularies.load_vocabulary(spec)
  if not isinstance(vocabulary, vocabularies.SentencePieceVocabulary):
    return False
  shutil.copyfile(vocabulary.spec, directory / 'spiece.model')
  special = {
    f'{name}_token': vocabulary.piece(number)
    for name, number in (
      ('pad', vocabulary.pad_id),
      ('eos', vocabulary.eos_id),
      ('unk', vocabulary.unk_id),
    )
  }
  _write_json(
    directory / 'tokenizer_config.json',
    {
      'tokenizer_class': 'T5Tokenizer',
      'extra_ids': vocabulary.extra_ids,
      'legacy': False,
      **special,
    },
  )
  return True


def _shards(
  config: T5Config, max_shard_size: int
) -> list[dict[str, tuple[names.Row, int]]]:
  """Which tensors, as (row, layer), are in which file."""
  shards: list[dict[str, tuple[names.Row, int]]] = [{}]
  filled = 0
  for row in names.rows(config):
    size = 4 * int(np.prod(row.their_shape('hf')))
    for layer, name in enumerate(row.names['hf']):
      if shards[-1] and filled + size > max_shard_size:
        shards.append({})
        filled = 0
      shards[-1][name] = row, layer
      filled += size
  return shards


def _tensor(
  params: Mapping[str, np.ndarray], row: names.Row, layer: int
) -> np.ndarray:
  value = params[row.path]
  return row.to_theirs(value[layer] if row.is_stacked else value, 'hf')


def _write_json(path: pathlib.Path, content: dict) -> None:
  atomic_files.write_text(path, json.dumps(content, indent=2) + '\n')

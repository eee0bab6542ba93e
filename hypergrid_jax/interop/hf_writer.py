"""Writes a directory that transformers reads as a T5."""

from collections.abc import Mapping
import pathlib

import numpy as np
import safetensors.numpy

from hypergrid_jax.interop import hf_config, hf_files, json_files, names
from hypergrid_jax.model.config import T5Config

DTYPE = 'float32'


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
  json_files.write(
    directory / hf_files.CONFIG, hf_config.write(config, dtype=DTYPE)
  )
  json_files.write(
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
    json_files.write(
      directory / hf_files.INDEX,
      {'metadata': {'total_size': size}, 'weight_map': mapping},
    )
  return sorted(set(mapping.values()))


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

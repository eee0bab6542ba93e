"""Opens weights of any format, and compares all tensors with what a T5 has."""

import pathlib

from hypergrid_jax import trees
from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import architectures, hf_files, mesh_tf, names, t5x
from hypergrid_jax.interop.sources import FLOATS, Source
from hypergrid_jax.model.config import T5Config

_FLOAT = 'one of ' + ', '.join(FLOATS)


def open_source(path: pathlib.Path, *, plan: bool = False) -> Source:
  """Opens a checkpoint of another program; reads no weights.

  Args:
    path: a directory of transformers, a checkpoint of T5X or of Mesh
      TensorFlow.
    plan: of transformers, config.json alone is enough.

  Raises:
    UserError: it is none of these, or damaged.
  """
  if t5x.is_checkpoint(path):
    return t5x.T5XCheckpoint(path)
  if mesh_tf.is_checkpoint(path):
    return mesh_tf.MeshTFCheckpoint(path)
  if hf_files.is_directory(path):
    return hf_files.HFDirectory(path, plan=plan)
  raise UserError(
    f'{path} holds no weights that are known here. Expected a directory with'
    f' {hf_files.CONFIG} and {hf_files.WEIGHTS}, as transformers saves it; one'
    ' with target.*/.zarray, as T5X does; or a TensorFlow checkpoint with'
    ' its .index file.'
  )


def check_tensors(source: Source) -> T5Config:
  """Compares what is there with what a T5 of these sizes has, both ways.

  Returns:
    The sizes.

  Raises:
    UserError: tensors are missing, unexpected, of another shape or of a type
      that float32 cannot hold; all of them are named, and the published model
      that comes nearest.
  """
  shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
  inferred = architectures.infer(shapes, source.format)
  if source.config is None:
    raise UserError(
      f'{source.place} holds no T5: it has {len(shapes)} tensors, such as'
      f' {", ".join(sorted(shapes)[:5]) or "none"}.'
    )
  copies = {copy: name for name, made in source.copies.items() for copy in made}
  found = {}
  for name, tensor in source.tensors.items():
    dtype = _FLOAT if tensor.dtype in FLOATS else tensor.dtype
    original = copies.get(name, name)
    # A copy stands in where the original is missing.
    if original == name or original not in source.tensors:
      found[original] = [dtype, list(tensor.shape)]
    elif source.tensors[original].shape != tensor.shape:
      found[name] = [dtype, list(tensor.shape)]
  wanted = {
    name: [_FLOAT, list(shape)]
    for name, shape in names.layout(source.config, source.format).items()
  }
  differences = trees.differences(found, wanted)
  if differences:
    like = (
      'The tensors are not those of any T5.'
      if inferred is None
      else architectures.nearest(inferred)
    )
    said_by = 'config.json' if source.format == 'hf' else 'most of them'
    raise UserError(
      f'{source.place}: the tensors are not those of the T5 that {said_by}'
      ' tells of.\n'
      + '\n'.join(f'  {line}' for line in differences)
      + f'\nOf the tensors found: {like} Nothing was written.'
    )
  return source.config

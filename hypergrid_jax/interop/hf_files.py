"""Directories of Hugging Face transformers: config.json and safetensors."""

import pathlib
import re
import struct

import numpy as np
import safetensors

from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import hf_config, json_files, names
from hypergrid_jax.interop.sources import Tensor

WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
CONFIG = 'config.json'

_DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
# Of the same weights: what they are, and what reading them would take.
_REFUSED = {
  '.bin': 'a pickle, which can run any program when it is read',
  '.pt': 'a pickle, which can run any program when it is read',
  '.pth': 'a pickle, which can run any program when it is read',
  '.ckpt': 'a pickle, which can run any program when it is read',
  '.h5': "in the format of transformers' TensorFlow models",
  '.msgpack': "in the format of transformers' Flax models",
}
_PICKLE_STARTS = (b'PK\x03\x04', b'\x80\x02', b'\x80\x03', b'\x80\x04')
# Tables that transformers shares with the embedding, if they are there.
_COPIES = {
  'shared.weight': (
    'encoder.embed_tokens.weight',
    'decoder.embed_tokens.weight',
  )
}
# In the first conversions of T5 1.0; nothing ever read it.
_UNUSED = re.compile(
  r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias'
  r'\.weight'
)


def is_directory(path: pathlib.Path) -> bool:
  """Tells whether this looks like one of these directories."""
  if path.is_file():
    return path.suffix == '.safetensors' or path.suffix in _REFUSED
  if not path.is_dir():
    return False
  found = {p.name for p in path.iterdir()}
  return bool(
    found & {CONFIG, WEIGHTS, INDEX}
    or any(pathlib.Path(name).suffix in _REFUSED for name in found)
  )


class HFDirectory:
  """An opened directory; see `sources.Source`.

  Only headers are read until `read`, which maps one tensor's part of a file.
  """

  format: names.Format = 'hf'

  def __init__(self, path: pathlib.Path, *, plan: bool = False):
    """Reads sizes and headers.

    Args:
      path: the directory, or a safetensors file in it.
      plan: the tensors may be missing altogether: those of config.json stand
        for them.

    Raises:
      UserError: anything is missing, damaged or not what it says it is.
    """
    self.place = str(path)
    directory = path.parent if path.is_file() else path
    if path.is_file():
      _refuse_pickle(path)
    if not (directory / CONFIG).is_file():
      raise UserError(
        f'{directory} has no {CONFIG}, which says what the model is. Fetch it'
        ' from where the weights are from.'
      )
    self.config = hf_config.read(directory / CONFIG)
    self._files: dict[str, pathlib.Path] = {}
    self.tensors: dict[str, Tensor] = {}
    copies = dict(_COPIES)
    if self.config.logits_via_embedding:
      copies['shared.weight'] += ('lm_head.weight',)
    self.copies = copies
    for file, listed in _weight_files(path, directory, plan).items():
      self._add(file, listed)
    if plan and not self._files:
      for name, shape in names.layout(self.config, 'hf').items():
        self.tensors[name] = Tensor('float32', shape, 'not there yet')
    unused = [name for name in self.tensors if _UNUSED.fullmatch(name)]
    for name in unused:
      del self.tensors[name]
    self.ignored = tuple(f'{name}: no T5 uses it' for name in unused)

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor, in its own dtype.

    Raises:
      UserError: its file is damaged.
    """
    # Opened anew for each, so that what was read before leaves the memory.
    try:
      with safetensors.safe_open(self._files[name], 'np') as file:
        return file.get_tensor(name)
    except (safetensors.SafetensorError, OSError) as error:
      raise _damaged(self._files[name], error) from error

  def _add(self, path: pathlib.Path, listed: set[str] | None) -> None:
    """Takes the header of one file; `listed` is what the index says of it."""
    header = _header(path)
    if listed is not None and listed != set(header):
      raise UserError(
        f'{path} is not the file that {INDEX} speaks of:'
        + _sides(listed - set(header), set(header) - listed)
      )
    for name, (dtype, shape) in header.items():
      self._files[name] = path
      self.tensors[name] = Tensor(_DTYPES.get(dtype, dtype), shape, path.name)


def _weight_files(
  path: pathlib.Path, directory: pathlib.Path, plan: bool
) -> dict[pathlib.Path, set[str] | None]:
  """The files to read, and which tensors the index says they have."""
  if path.is_file():
    return {path: None}
  if (directory / WEIGHTS).exists():
    return {directory / WEIGHTS: None}
  if (directory / INDEX).exists():
    return _shards(directory)
  if plan:
    return {}
  for file in sorted(directory.iterdir()):
    _refuse_pickle(file)
  raise UserError(
    f'{directory} has neither {WEIGHTS} nor {INDEX}. Fetch the safetensors'
    ' files of the model.'
  )


def _shards(directory: pathlib.Path) -> dict[pathlib.Path, set[str] | None]:
  """The files of an index.

  Raises:
    UserError: it names something else than files beside it, or one is missing.
  """
  index = directory / INDEX
  mapping = json_files.read_object(index).get('weight_map')
  if not isinstance(mapping, dict) or not mapping:
    raise UserError(
      f'{index} lacks "weight_map": which tensor is in which file.'
    )
  files: dict[pathlib.Path, set[str]] = {}
  for name, file in mapping.items():
    if not isinstance(file, str) or not re.fullmatch(
      r'[\w-][\w.-]*\.safetensors', file
    ):
      raise UserError(
        f'{index}: the file of {name!r} is {file!r}; expected the name of a'
        ' safetensors file beside the index. The index was tampered with.'
      )
    files.setdefault(directory / file, set()).add(name)
  missing = sorted(file.name for file in files if not file.is_file())
  if missing:
    raise UserError(
      f'{directory} lacks {len(missing)} of the {len(files)} files of {INDEX}:'
      f' {", ".join(missing)}. Fetch them.'
    )
  return dict(files)


def _header(path: pathlib.Path) -> dict[str, tuple[str, tuple[int, ...]]]:
  """Dtype and shape of every tensor of a file, whose layout is checked."""
  _refuse_pickle(path)
  try:
    with safetensors.safe_open(path, 'np') as file:
      slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
      header = {
        name: (part.get_dtype(), tuple(part.get_shape()))
        for name, part in slices.items()
      }
    with path.open('rb') as file:
      (length,) = struct.unpack('<Q', file.read(8))
      # safetensors takes the last of two tensors of the same name.
      json_files.parse_object(file.read(length), f'{path}: its header')
  except (safetensors.SafetensorError, OSError) as error:
    raise _damaged(path, error) from error
  return header


def _damaged(path: pathlib.Path, error: Exception) -> UserError:
  return UserError(
    f'{path} is not a whole safetensors file ({error}). Fetch it again.'
  )


def _refuse_pickle(path: pathlib.Path) -> None:
  """Refuses other formats, by name and by content.

  Raises:
    UserError: with the way to convert.
  """
  why = _REFUSED.get(path.suffix)
  if why is None and path.suffix == '.safetensors' and path.is_file():
    with path.open('rb') as file:
      if file.read(4).startswith(_PICKLE_STARTS):
        why = 'a pickle or a zip of PyTorch under another name'
  if why is not None:
    raise UserError(
      f'{path} is {why}; it is not opened. Fetch the model.safetensors of the'
      ' model, or, if you trust the file, convert it where PyTorch and'
      f' transformers are installed:\n  python -c "from transformers import'
      ' T5ForConditionalGeneration as T;'
      f" T.from_pretrained('{path.parent}').save_pretrained('OUT')\"\nand"
      ' import OUT.'
    )


def _sides(missing: set[str], unexpected: set[str]) -> str:
  lines = ''
  for kind, found in (('missing', missing), ('unexpected', unexpected)):
    if found:
      shown = sorted(found)[:20]
      lines += f'\n  {len(found)} {kind}: {", ".join(shown)}'
  return lines

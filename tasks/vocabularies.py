"""Text to token ids and back, id for id as seqio's vocabularies do it.

No TensorFlow: evaluation, prediction and the command line read and write text
through these; seqio's own classes are used only where a seqio task tokenises.
"""

from collections.abc import Iterable, Sequence
import hashlib
import os
from typing import Protocol

from hypergrid_jax.errors import UserError

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2

# T5's own model file holds 32,000 pieces; its 100 sentinels are appended when
# it is loaded. Models of later families have theirs inside the file, or none.
T5_PIECES = 32_000
T5_EXTRA_IDS = 100

_BYTE_OFFSET = 3  # ids 0, 1, 2 are padding, end of sequence and unknown


class Vocabulary(Protocol):
  """What text becomes for a model.

  Attributes:
    spec: what `load_vocabulary` was given, 'sample' resolved to its path.
    size: number of ids, extra ids included. A model may have more rows.
    extra_ids: sentinels appended to the pieces of the file.
    pad_id: 0.
    eos_id: 1.
    unk_id: 2.
    fingerprint: differs between vocabularies that map any text differently.
  """

  spec: str
  size: int
  extra_ids: int
  pad_id: int
  eos_id: int
  unk_id: int
  fingerprint: str

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without an end-of-sequence id."""

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first end-of-sequence id."""


class SentencePieceVocabulary:
  """A SentencePiece model file; equals `seqio.SentencePieceVocabulary`.

  A file with exactly 32,000 pieces and no sentinels among them is T5's: it gets
  100 extra ids, `<extra_id_99>` first, as in T5. Any other file is taken as it
  is.
  """

  pad_id = PAD_ID
  eos_id = EOS_ID
  unk_id = UNK_ID

  def __init__(self, path: str):
    """Loads the model.

    Args:
      path: of the model file.

    Raises:
      UserError: there is no such file, it is no SentencePiece model, or its
        padding, end-of-sequence and unknown ids are not 0, 1 and 2.
    """
    import sentencepiece

    content = _read(path)
    model = _parse(content, path)
    self.spec = path
    self.extra_ids = _extra_ids(model)
    _append_sentinels(model, self.extra_ids)
    self._processor = sentencepiece.SentencePieceProcessor()
    try:
      self._processor.LoadFromSerializedProto(model.SerializeToString())
    # The second: its message holds bytes of a piece that is no text.
    except (RuntimeError, UnicodeDecodeError) as error:
      raise _not_a_model(path, str(error)) from error
    self.size = self._processor.GetPieceSize()
    ids = {
      'padding': (self._processor.pad_id(), PAD_ID),
      'end of sequence': (self._processor.eos_id(), EOS_ID),
      'unknown': (self._processor.unk_id(), UNK_ID),
    }
    for name, (found, wanted) in ids.items():
      if found != wanted:
        raise UserError(
          f'Vocabulary {path}: the {name} id is {found}, but models here need'
          f' {wanted}. Train it with pad_id=0, eos_id=1, unk_id=2, bos_id=-1.'
        )
    digest = hashlib.sha256(content).hexdigest()
    self.fingerprint = f'sentencepiece:{digest}:{self.extra_ids}'

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without an end-of-sequence id."""
    return self._processor.EncodeAsIds(text)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first end-of-sequence id.

    Ids at or above `size` count as unknown, which is written as ' ⁇ '.
    """
    return self._processor.DecodeIds(_clean(ids, self.size))

  def model(self):
    """Returns the parsed model file, with the extra ids as its last pieces."""
    model = _parse(_read(self.spec), self.spec)
    _append_sentinels(model, self.extra_ids)
    return model


class ByteVocabulary:
  """UTF-8 bytes, 3 above their values; equals `seqio.ByteVocabulary()`."""

  spec = 'bytes'
  size = 256 + _BYTE_OFFSET
  extra_ids = 0
  pad_id = PAD_ID
  eos_id = EOS_ID
  unk_id = UNK_ID
  fingerprint = f'bytes:{size}'

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without an end-of-sequence id."""
    return [byte + _BYTE_OFFSET for byte in text.encode('utf-8')]

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first end-of-sequence id.

    Padding, unknown ids and bytes that are no UTF-8 are left out.
    """
    kept = (i - _BYTE_OFFSET for i in _clean(ids, self.size))
    return bytes(i for i in kept if i >= 0).decode('utf-8', errors='ignore')


def load_vocabulary(spec: str) -> Vocabulary:
  """Returns the vocabulary that `spec` names.

  Args:
    spec: 'sample' (the bundled model of the sample corpus), 'bytes', or the
      path of a SentencePiece model.

  Raises:
    UserError: `spec` is a path that cannot be used.
  """
  if spec == 'bytes':
    return ByteVocabulary()
  return SentencePieceVocabulary(vocabulary_path(spec))


def vocabulary_path(spec: str) -> str:
  """Returns the model file of `spec`; 'sample' becomes the bundled one."""
  if spec == 'sample':
    from hypergrid_jax.tasks import sample

    return os.fspath(sample.VOCABULARY)
  return os.path.expanduser(spec)


def _read(path: str) -> bytes:
  if os.path.isdir(path):
    raise UserError(
      f'Vocabulary {path} is a directory; expected a SentencePiece model file,'
      ' such as sentencepiece.model.'
    )
  try:
    with open(path, 'rb') as file:
      return file.read()
  except FileNotFoundError:
    raise UserError(
      f'Vocabulary {path}: there is no such file. Give the path of a'
      " SentencePiece model, 'sample' or 'bytes'."
    ) from None
  except OSError as error:
    raise UserError(
      f'Vocabulary {path} cannot be read: {error.strerror}.'
    ) from error


def _not_a_model(path: str, why: str) -> UserError:
  return UserError(
    f'Vocabulary {path} is not a SentencePiece model ({why}). Expected a binary'
    " .model file as written by SentencePiece's trainer, not a .vocab list."
  )


def _parse(content: bytes, path: str):
  from google.protobuf import message
  from sentencepiece import sentencepiece_model_pb2

  try:
    model = sentencepiece_model_pb2.ModelProto.FromString(content)
  except message.DecodeError as error:
    raise _not_a_model(path, f'{error}'.rstrip('.')) from error
  if not model.pieces or not model.HasField('trainer_spec'):
    raise _not_a_model(path, 'it holds no pieces or no trainer settings')
  return model


def _extra_ids(model) -> int:
  if len(model.pieces) != T5_PIECES:
    return 0
  if any('<extra_id_' in piece.piece for piece in model.pieces):
    return 0
  return T5_EXTRA_IDS


def _append_sentinels(model, count: int):
  user_defined = model.SentencePiece.USER_DEFINED
  for i in reversed(range(count)):
    model.pieces.add(piece=f'▁<extra_id_{i}>', score=0.0, type=user_defined)


def _clean(ids: Iterable[int], size: int) -> Sequence[int]:
  """Makes ids outside the vocabulary unknown and cuts after the first EOS."""
  clean = []
  for i in ids:
    i = int(i)
    clean.append(UNK_ID if i >= size else i)
    if i == EOS_ID:
      break
  return clean

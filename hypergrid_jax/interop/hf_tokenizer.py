"""A SentencePiece model as files from which AutoTokenizer takes the same ids.

spiece.model is the model itself. transformers reads tokenizer.json if it is
there; it is written here, because what transformers makes of a bare model file
leaves out some of the model's own settings: byte fallback and repeated spaces.
"""

import base64
import pathlib
import shutil
from typing import Any

from hypergrid_jax.interop import json_files
from hypergrid_jax.tasks import vocabularies

_SPACE = '▁'
_UNIGRAM, _CONTROL, _UNKNOWN = 1, 3, 2  # as in SentencePiece's own enumerations


def write(directory: pathlib.Path, spec: str) -> bool:
  """Writes the files of a vocabulary.

  Args:
    directory: to write to.
    spec: of the vocabulary, as in `DataConfig`.

  Returns:
    Whether there are such files: only a SentencePiece model with unigrams, as
    T5's, has them.

  Raises:
    UserError: the vocabulary cannot be read.
  """
  vocabulary = vocabularies.load_vocabulary(spec)
  if not isinstance(vocabulary, vocabularies.SentencePieceVocabulary):
    return False
  model = vocabulary.model()
  if model.trainer_spec.model_type != _UNIGRAM:
    return False
  shutil.copyfile(vocabulary.spec, directory / 'spiece.model')
  extra = [f'<extra_id_{n}>' for n in reversed(range(vocabulary.extra_ids))]
  json_files.write(
    directory / 'tokenizer.json', _tokenizer(model, vocabulary, extra)
  )
  json_files.write(
    directory / 'tokenizer_config.json',
    {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'pad_token': model.pieces[vocabulary.pad_id].piece,
      'eos_token': model.pieces[vocabulary.eos_id].piece,
      'unk_token': model.pieces[vocabulary.unk_id].piece,
      'additional_special_tokens': extra,
      'clean_up_tokenization_spaces': False,
    },
  )
  return True


def _special_token(number: int, content: str) -> dict[str, Any]:
  return {
    'id': number,
    'content': content,
    'single_word': False,
    'lstrip': False,
    'rstrip': False,
    'normalized': False,
    'special': True,
  }


def _tokenizer(
  model, vocabulary: vocabularies.SentencePieceVocabulary, extra: list[str]
) -> dict[str, Any]:
  """The content of tokenizer.json.

  Args:
    model: the parsed file, the extra ids included.
    vocabulary: for its special ids.
    extra: names of the extra ids, the last ids of the vocabulary.
  """
  size = vocabulary.size - len(extra)
  pieces = [[p.piece, p.score] for p in model.pieces[:size]]
  pieces += [[name, 0.0] for name in extra]
  special = [
    number
    for number, piece in enumerate(model.pieces[:size])
    if piece.type in (_CONTROL, _UNKNOWN)
  ]
  end = pieces[vocabulary.eos_id][0]
  spaces = {
    'type': 'Metaspace',
    'replacement': _SPACE,
    'prepend_scheme': 'never',  # the normalizers do it, also before spaces
    'split': True,
  }
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': [
      _special_token(number, pieces[number][0])
      for number in (*special, *range(size, vocabulary.size))
    ],
    'normalizer': {
      'type': 'Sequence',
      'normalizers': _normalizers(model.normalizer_spec),
    },
    'pre_tokenizer': spaces,
    'post_processor': {
      'type': 'TemplateProcessing',
      'single': [_sequence('A', 0), _token(end)],
      'pair': [_sequence('A', 0), _token(end), _sequence('B', 0), _token(end)],
      'special_tokens': {
        end: {'id': end, 'ids': [vocabulary.eos_id], 'tokens': [end]}
      },
    },
    'decoder': {
      'type': 'Sequence',
      'decoders': [
        {'type': 'ByteFallback'},
        {**spaces, 'prepend_scheme': 'always'},
      ],
    },
    'model': {
      'type': 'Unigram',
      'unk_id': vocabulary.unk_id,
      'vocab': pieces,
      'byte_fallback': model.trainer_spec.byte_fallback,
    },
  }


def _normalizers(spec) -> list[dict[str, Any]]:
  found: list[dict[str, Any]] = []
  if spec.precompiled_charsmap:
    charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
    found.append({'type': 'Precompiled', 'precompiled_charsmap': charsmap})
  if spec.remove_extra_whitespaces:
    found += [
      {'type': 'Strip', 'strip_left': True, 'strip_right': True},
      {'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': ' '},
    ]
  if spec.add_dummy_prefix:
    found.append({'type': 'Prepend', 'prepend': _SPACE})
  space = {'type': 'Replace', 'pattern': {'String': ' '}, 'content': _SPACE}
  return [*found, space]


def _sequence(name: str, kind: int) -> dict[str, Any]:
  return {'Sequence': {'id': name, 'type_id': kind}}


def _token(name: str) -> dict[str, Any]:
  return {'SpecialToken': {'id': name, 'type_id': 0}}

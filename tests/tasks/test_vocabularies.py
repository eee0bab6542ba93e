import io

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import sample, vocabularies

TEXTS = (
  'sst2 sentence: a moving film',
  '',
  '  two  spaces ',
  'unseen: {braces} <tags> ümläut 漢字 \u2028 \x07',
  'before <extra_id_0> and <extra_id_99> after',
  'two\nlines\tand a tab',
)
# Ids beyond the vocabulary, padding inside, an end of sequence in the middle.
ID_LISTS = (
  [5, 9, 1, 7, 7],
  [0, 0],
  [1],
  [],
  [2, 4, 2, 40_000, 6],
  [8, 32_000, 32_099, 32_100, 258, 259, 12],
)


@pytest.fixture(scope='module')
def t5_like(tmp_path_factory) -> str:
  """A model with T5's number of pieces."""
  model = sentencepiece_model_pb2.ModelProto.FromString(
    sample.VOCABULARY.read_bytes()
  )
  for number in range(vocabularies.T5_PIECES - len(model.pieces)):
    model.pieces.add(piece=f'▁filler{number}', score=-50.0)
  path = tmp_path_factory.mktemp('vocabulary') / 't5.model'
  path.write_bytes(model.SerializeToString())
  return str(path)


def assert_equal(ours, theirs):
  for text in TEXTS:
    assert ours.encode(text) == list(theirs.encode(text)), text
    assert ours.encode(text) == theirs.encode_tf(text).numpy().tolist(), text
  for ids in ID_LISTS:
    assert ours.decode(ids) == theirs.decode(ids), ids
  assert ours.size == theirs.vocab_size
  assert ours.pad_id == theirs.pad_id
  assert ours.eos_id == theirs.eos_id
  assert ours.unk_id == theirs.unk_id


def test_sample_vocabulary_equals_seqio():
  import seqio

  ours = vocabularies.load_vocabulary('sample')
  assert ours.extra_ids == 0
  assert_equal(ours, seqio.SentencePieceVocabulary(str(sample.VOCABULARY)))


def test_t5_sized_vocabulary_gets_its_sentinels_as_in_seqio(t5_like):
  import seqio

  ours = vocabularies.load_vocabulary(t5_like)
  assert ours.size == 32_100
  assert ours.encode('<extra_id_0>')[-1] == 32_099
  assert_equal(ours, seqio.SentencePieceVocabulary(t5_like, extra_ids=100))


def test_bytes_equal_seqio():
  import seqio

  assert_equal(vocabularies.load_vocabulary('bytes'), seqio.ByteVocabulary())


@pytest.mark.real_data
def test_t5s_own_vocabulary_equals_seqio(real_data):
  import seqio

  path = str(real_data / 'vocab' / 't5.sentencepiece.model')
  ours = vocabularies.load_vocabulary(path)
  assert ours.size == 32_100
  assert_equal(ours, seqio.SentencePieceVocabulary(path, extra_ids=100))


def test_fingerprint_tells_contents_apart_not_paths(tmp_path, t5_like):
  copy = tmp_path / 'copy.model'
  copy.write_bytes(sample.VOCABULARY.read_bytes())
  load = vocabularies.load_vocabulary
  assert load('sample').fingerprint == load(str(copy)).fingerprint
  marks = {load(spec).fingerprint for spec in ('sample', 'bytes', t5_like)}
  assert len(marks) == 3


def test_files_that_are_no_model_are_refused(tmp_path):
  content = sample.VOCABULARY.read_bytes()
  bad = {
    'text.vocab': b'<pad>\t0\n</s>\t0\n',
    'empty.model': b'',
    'cut.model': content[: len(content) // 2],
    'page.html': b'<!doctype html><html></html>',
    'zeros.model': bytes(4096),
    'archive.gz': b'\x1f\x8b\x08' + content[:100],
  }
  for name, data in bad.items():
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match='is not a SentencePiece model') as info:
      vocabularies.load_vocabulary(str(path))
    assert name in str(info.value)


def test_paths_that_are_no_files_are_refused(tmp_path):
  with pytest.raises(UserError, match='is a directory'):
    vocabularies.load_vocabulary(str(tmp_path))
  with pytest.raises(UserError, match='no such file'):
    vocabularies.load_vocabulary(str(tmp_path / 'missing.model'))


@pytest.mark.parametrize(
  ('ids', 'name'),
  [
    ({'pad_id': -1, 'unk_id': 2, 'eos_id': 1, 'bos_id': 0}, 'padding id is -1'),
    ({'pad_id': 0, 'unk_id': 1, 'eos_id': 2}, 'end of sequence id is 2'),
    ({'pad_id': 0, 'unk_id': 3, 'eos_id': 1, 'bos_id': 2}, 'unknown id is 3'),
  ],
)
def test_models_with_other_special_ids_are_refused(tmp_path, ids, name):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['a few words', 'some more words', 'words']),
    model_writer=model,
    vocab_size=30,
    hard_vocab_limit=False,
    minloglevel=2,
    **{'bos_id': -1, **ids},
  )
  path = tmp_path / 'other.model'
  path.write_bytes(model.getvalue())
  with pytest.raises(UserError, match=name):
    vocabularies.load_vocabulary(str(path))

"""The bundled SentencePiece model: lossless, a piece per word, rebuildable."""

import pytest
import sentencepiece

from hypergrid_jax.tasks import sample
from hypergrid_jax.tasks.sample import build_vocabulary


@pytest.fixture(scope='module')
def pieces():
  return sentencepiece.SentencePieceProcessor(model_file=str(sample.VOCABULARY))


def _list(processor):
  return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def test_ids_are_where_t5_has_them(pieces):
  assert (pieces.pad_id(), pieces.eos_id(), pieces.unk_id()) == (0, 1, 2)
  assert pieces.bos_id() == -1


def test_it_is_small(pieces):
  assert pieces.get_piece_size() < 1000
  assert sample.VOCABULARY.stat().st_size < 300_000


def test_building_it_again_gives_the_same_pieces(pieces, tmp_path):
  path = tmp_path / 'again.model'
  build_vocabulary.main(path)
  again = sentencepiece.SentencePieceProcessor(model_file=str(path))
  assert _list(again) == _list(pieces)
  assert [p.name for p in tmp_path.iterdir()] == ['again.model']


@pytest.mark.parametrize(
  'text',
  [
    'Anna put the ball on the rope because *it* was big.',
    'unseen Zebra, 3.14 % of $5; "quoted" (really)!',
    ' leading, two  spaces and trailing ',
    'Grüße, naïve café, Здравствуй, 漢字, \N{GRINNING FACE}',
    'line\nbreak\ttab\r\x00end',
    'ﬁ ½ Å ™',  # compatibility characters, which normalisation would change
    '',
  ],
)
def test_any_text_survives(pieces, text):
  ids = pieces.encode(text)
  assert pieces.unk_id() not in ids
  assert pieces.decode(ids) == text


def test_every_word_of_the_corpus_is_one_piece(pieces):
  texts = [
    value
    for row in sample.rows('super_glue', 'record', 'validation')
    for value in (row['query'], row['passage'].replace('\n@highlight\n', ' '))
  ] + [row['sentence'] for row in sample.rows('glue', 'cola', 'validation')]
  for text in texts:
    marks = sum(text.count(mark) for mark in '.,?')
    assert len(pieces.encode(text)) == len(text.split(' ')) + marks, text


@pytest.mark.parametrize(
  ('text', 'count'),
  [
    ('mrpc sentence1: sentence2:', 3),
    ('qqp question1: question2:', 3),
    ('mnli hypothesis: premise:', 3),
    ('copa choice1: choice2: premise: question:', 5),
    ('multirc question: answer: paragraph:', 4),
    ('record query: @placeholder entities: passage:', 5),
    ('wic sentence1: sentence2: word:', 4),
    ('wsc: *she*', 2),
    ('boolq passage: question:', 3),
    ('not_equivalent', 1),
    ('not_duplicate', 1),
    ('not_entailment', 1),
    ('unacceptable', 1),
    ('contradiction', 1),
    ('negative', 1),
    ('choice2', 1),
    ('False', 1),
    ('3.8', 1),
    ('5.0', 1),
  ],
)
def test_prefixes_and_labels_are_one_piece_a_word(pieces, text, count):
  assert len(pieces.encode(text)) == count

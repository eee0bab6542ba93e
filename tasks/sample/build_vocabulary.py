"""Trains the SentencePiece model that comes with the sample corpus.

Run it from a checkout, after a change to the grammars:

  python -m hypergrid_jax.tasks.sample.build_vocabulary

Every word of the corpus, of the task prefixes and of the labels becomes one
piece. For that the training text is the list of the distinct words, each as
often as the others and before several marks: the trainer proposes only pieces
that it has seen in more than one place, and a word's frequency in the corpus
must not decide whether it is kept. What is not in the corpus is spelled in
letters and bytes, so that any text survives encoding and decoding.
"""

from collections.abc import Iterator
import io
import os
import pathlib
import re
import sys
import tempfile

import sentencepiece

from hypergrid_jax.tasks import sample

# Strings that the formatted examples have beside the words of the rows. Text
# fields become 'field:', as in 'mrpc sentence1: ... sentence2: ...'.
_PREFIXES = ('entities:', 'wsc:', '*he*', '*she*', '*it*')
_LABELS = (
  'unacceptable acceptable negative positive not_equivalent equivalent '
  'not_duplicate duplicate entailment not_entailment neutral contradiction '
  'True False choice1 choice2'
).split()
_SCORES = tuple(f'{tenths / 10:.1f}' for tenths in range(0, 52, 2))

_BYTES_AND_CONTROLS = 256 + 3
_MARKS = ('', '.', ',', '?')
# Text stays as it is. tf_text writes a line to the standard error for every
# model without any rule, so there is one that text never meets: two of the
# private character U+E000 become one.
_NORMALIZATION = 'E000 E000\tE000\n'
_REPEATS = 30


def words() -> tuple[str, ...]:
  """Returns, sorted, the words that shall be one piece each."""
  found = {*_PREFIXES, *_LABELS, *_SCORES}
  for benchmark in ('glue', 'super_glue'):
    for config in sample.configs(benchmark):
      found.add(config)
      for split in sample.splits(benchmark, config):
        for row in sample.rows(benchmark, config, split):
          for field, text in _texts(row):
            found.add(f'{field}:')
            found.update(re.findall(r'@?\w+', text))
  return tuple(sorted(found))


def _texts(row: dict) -> Iterator[tuple[str, str]]:
  for field, value in row.items():
    if isinstance(value, str):
      yield field, value


def train() -> bytes:
  """Returns the serialised model."""
  vocabulary = words()
  lines = [word + mark for word in vocabulary for mark in _MARKS] * _REPEATS
  characters = {c for line in lines for c in line} | {'▁'}
  model = io.BytesIO()
  with tempfile.TemporaryDirectory() as directory:
    rules = pathlib.Path(directory) / 'rules.tsv'
    rules.write_text(_NORMALIZATION)
    _train(model, rules, lines, characters, vocabulary)
  return model.getvalue()


def _train(model, rules, lines, characters, vocabulary) -> None:
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines),
    model_writer=model,
    model_type='unigram',
    vocab_size=_BYTES_AND_CONTROLS + len(characters) + len(vocabulary),
    hard_vocab_limit=False,
    byte_fallback=True,
    character_coverage=1.0,
    normalization_rule_tsv=str(rules),
    remove_extra_whitespaces=False,
    split_by_unicode_script=False,
    split_by_number=False,
    shuffle_input_sentence=False,
    num_threads=1,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )


def main(path: pathlib.Path = sample.VOCABULARY) -> None:
  """Writes the model to `path`, whole or not at all."""
  content = train()
  unfinished = path.with_name(f'{path.name}.{os.getpid()}')
  try:
    with unfinished.open('xb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(unfinished, path)
  finally:
    unfinished.unlink(missing_ok=True)
  pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
  sys.stdout.write(f'{path}: {pieces.get_piece_size()} pieces\n')


if __name__ == '__main__':
  main()

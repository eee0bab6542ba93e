"""The sample corpus's labels, worked out again from the text alone.

Nothing here uses the grammars: every rule is written a second time, as a
reader would apply it, and is held against every row that has a label.
"""

import re

import pytest

from hypergrid_jax.tasks import sample

MEN = {'Tom', 'Ben', 'Sam', 'Max'}
GOOD = 'good great lovely funny brilliant wonderful superb'.split()
BAD = 'bad boring awful dull terrible silly horrible'.split()
MEANING = {
  'purchased': 'bought',
  'discovered': 'found',
  'grabbed': 'took',
  'concealed': 'hid',
  'picked': 'chose',
}
OPPOSITES = 'old/new big/small clean/dirty heavy/light'.split()
TOYS, FOODS = {'ball', 'doll', 'drum'}, {'cake', 'cheese', 'melon'}
BECAUSE = {
  'ate': 'hungry',
  'drank': 'thirsty',
  'slept': 'tired',
  'cried': 'sad',
  'sang': 'happy',
  'ran': 'late',
  'shivered': 'cold',
  'yawned': 'bored',
}
TRUE = {'knew', 'proved', 'learned', 'remembered'}
UNTRUE = {'denied', 'pretended', 'lied', 'doubted'}
ALIVE, MADE = {'slept', 'ran', 'fed'}, {'broke', 'rusted', 'sold'}


def _words(text):
  return [MEANING.get(word, word) for word in re.findall(r'@?\w+', text)]


def _kind(thing):
  return 'toy' if thing in TOYS else 'food' if thing in FOODS else 'tool'


def _opposite(word):
  pair = next(pair for pair in OPPOSITES if word in pair.split('/'))
  return pair.replace(word, '').strip('/')


def sst2(row):
  words = _words(row['sentence'])
  found = [word in GOOD for word in words if word in GOOD + BAD]
  assert len(found) == 1
  return int(found[0] != ('not' in words))


def cola(row):
  sentence = row['sentence'].removesuffix('.')
  number = re.fullmatch(
    r'(One|Two) \w+ (\w+) (was|were) \w+ in the \w+', sentence
  )
  if number:
    count, subject, verb = number.groups()
    assert (count == 'Two') == subject.endswith('s')
    return int((count == 'Two') == (verb == 'were'))
  verbs = '|'.join([*MEANING, *MEANING.values()])
  colours = 'red|blue|green|white|black'
  right = rf'[A-Z]\w+ ({verbs}) the ({colours}) (?!{colours})\w+'
  return int(bool(re.fullmatch(right, sentence)))


def _shared_slots(row):
  pairs = zip(_words(row['sentence1']), _words(row['sentence2']), strict=True)
  return sum(a == b for a, b in pairs) - 1  # of five words, 'the' is no slot


def mrpc(row):
  shared = _shared_slots(row)
  assert shared in (1, 2, 4)
  return int(shared == 4)


def stsb(row):
  return [0.0, 1.4, 2.6, 3.8, 5.0][_shared_slots(row)]


def qqp(row):
  def meaning(question):
    start = _words(question.replace('In which place', 'Where'))
    start = ['When' if w in ('At', 'On') else w for w in start]
    asked = [start[0]] + (start[1:2] if start[0] == 'Who' else [])
    return asked, start[-2:]

  return int(meaning(row['question1']) == meaning(row['question2']))


def _relation(premise, hypothesis):
  name, deed, _, adjective, thing = _words(premise)
  words = _words(hypothesis)
  negative = bool({'not', 'never'} & set(words))
  words = [word for word in words if word not in ('not', 'never')]
  if words[0] == 'The':
    if words[1] != thing:
      return 'neutral'
    assert words[3] in (adjective, _opposite(adjective))
    true = (words[3] == adjective) != negative
    return 'entailment' if true else 'contradiction'
  assert words[1:] == [deed, 'the', _kind(thing)]
  if words[0] != name:
    return 'neutral'
  return 'contradiction' if negative else 'entailment'


def mnli(row):
  relation = _relation(row['premise'], row['hypothesis'])
  return ['entailment', 'neutral', 'contradiction'].index(relation)


def glue_rte(row):
  return int(_relation(row['sentence1'], row['sentence2']) != 'entailment')


def super_glue_rte(row):
  return int(_relation(row['premise'], row['hypothesis']) != 'entailment')


def cb(row):
  premise, hypothesis = _words(row['premise']), _words(row['hypothesis'])
  denied = 'not' in hypothesis
  assert premise[3:] == [word for word in hypothesis if word != 'not']
  if premise[1] not in TRUE | UNTRUE:
    return 2
  return int((premise[1] in TRUE) == denied)


def qnli(row):
  place = re.fullmatch(r'Where was (\w+) with the (\w+)\?', row['question'])
  colour = re.fullmatch(
    r'What colour was the (\w+) of (\w+)\?', row['question']
  )
  name, thing = place.groups() if place else colour.groups()[::-1]
  said = re.fullmatch(
    r'(\w+) \w+ the (\w+ )?(\w+)( in the \w+)?\.', row['sentence']
  )
  there = said[4] if place else said[2]
  return int((name, thing) != (said[1], said[3]) or not there)


def boolq(row):
  asked = row['question'].removeprefix('was ').rsplit(' ', 1)
  return int(f'{asked[0]} was {asked[1]}.'.lower() in row['passage'].lower())


def _doers(text):
  """Who did what: {action: names}."""
  return {
    action: set(names.split(' and '))
    for names, action in re.findall(r'(\w+(?: and \w+)?) (\w+)\.', text)
  }


def multirc(row):
  action = row['question'].removeprefix('Who ').removesuffix('?')
  return int(row['answer'] in _doers(row['paragraph'])[action])


def copa(row):
  def state(sentence):
    name, *rest = _words(sentence)
    return name, rest[1] if rest[0] == 'was' else BECAUSE[rest[0]]

  choices = [row['choice1'], row['choice2']]
  right = [state(choice) == state(row['premise']) for choice in choices]
  assert sum(right) == 1
  label = right.index(True)
  asks_cause = row['question'] == 'cause'
  assert (' was ' in choices[label]) == asks_cause
  assert (' was ' in row['premise']) != asks_cause
  return label


def wic(row):
  senses = []
  for n in '12':
    sentence = row[f'sentence{n}']
    assert sentence[row[f'start{n}'] : row[f'end{n}']] == row['word']
    words = set(_words(sentence))
    assert bool(words & ALIVE) != bool(words & MADE)
    senses.append(bool(words & ALIVE))
  return int(senses[0] == senses[1])


def _referent(text):
  things = re.fullmatch(
    r'\w+ put (the \w+) on (the \w+) because it was (big|small)\.', text
  )
  if things:
    return things[1] if things[3] == 'small' else things[2]
  people = re.fullmatch(r'(\w+) \w+ (\w+) because (he|she) was \w+\.', text)
  names = [n for n in people.groups()[:2] if (n in MEN) == (people[3] == 'he')]
  assert len(names) == 1
  return names[0]


def wsc(row):
  words = row['text'].split(' ')
  assert words[row['span2_index']] == row['span2_text']
  at, length = row['span1_index'], len(row['span1_text'].split(' '))
  assert ' '.join(words[at : at + length]) == row['span1_text']
  return int(row['span1_text'] == _referent(row['text']))


def wnli(row):
  subject = row['sentence2'].split(' was ')[0]
  return int(subject.lower() == _referent(row['sentence1']).lower())


def axg(row):
  subject = row['hypothesis'].split(' was ')[0]
  return int(subject != _referent(row['premise']))


RULES = {
  ('glue', 'cola'): cola,
  ('glue', 'sst2'): sst2,
  ('glue', 'mrpc'): mrpc,
  ('glue', 'stsb'): stsb,
  ('glue', 'qqp'): qqp,
  ('glue', 'mnli'): mnli,
  ('glue', 'qnli'): qnli,
  ('glue', 'rte'): glue_rte,
  ('glue', 'wnli'): wnli,
  ('super_glue', 'boolq'): boolq,
  ('super_glue', 'cb'): cb,
  ('super_glue', 'copa'): copa,
  ('super_glue', 'multirc'): multirc,
  ('super_glue', 'rte'): super_glue_rte,
  ('super_glue', 'wic'): wic,
  ('super_glue', 'wsc'): wsc,
  ('super_glue', 'axb'): glue_rte,
  ('super_glue', 'axg'): axg,
}


@pytest.mark.parametrize(('benchmark', 'config'), RULES)
def test_the_label_follows_from_the_text(benchmark, config):
  rule, checked = RULES[benchmark, config], 0
  for split in sample.splits(benchmark, config):
    for row in sample.rows(benchmark, config, split):
      if row['label'] == -1:
        continue
      assert rule(row) == row['label'], row
      checked += 1
  assert checked >= 100


def test_the_answers_of_record_are_who_did_it():
  for split in ('train', 'validation'):
    for row in sample.rows('super_glue', 'record', split):
      passage = row['passage'].replace('\n@highlight\n', ' ')
      query = re.fullmatch(
        r'@placeholder (\w+)(?: because (he|she) was \w+)?\.', row['query']
      )
      doers = _doers(passage)[query[1]]
      assert row['answers'] == sorted(doers)
      assert row['entities'] == re.findall(r'[A-Z]\w+', passage)
      if query[2]:
        men = [name in MEN for name in row['entities']]
        assert men.count(query[2] == 'he') == 1
        assert (row['answers'][0] in MEN) == (query[2] == 'he')


def test_mismatched_is_about_things_that_training_does_not_mention():
  words = {}
  for split in ('train', 'validation_matched', 'validation_mismatched'):
    rows = sample.rows('glue', 'mnli', split)
    words[split] = {_words(row['premise'])[-1] for row in rows}
  assert words['validation_matched'] <= words['train']
  assert not words['validation_mismatched'] & words['train']

"""Which rows a protocol trains on, chooses by and reports on."""

import numpy as np
import pytest

from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.errors import UserError
from hypergrid_jax.runs import datasets
from hypergrid_jax.tasks import definitions, vocabularies
from hypergrid_jax.tasks.catalogue import protocols

HYPERFORMER = protocols.PROTOCOLS['hyperformer']
KINDS = ('train', 'validation', 'test')

# torch.randperm with a generator of seed 42, PyTorch 2.13 on a CPU.
PERMUTATION_OF_11 = [6, 8, 9, 2, 1, 10, 0, 7, 3, 5, 4]
# Places 0 to 4, and 999 to 1001, of the permutation of SST-2's training set.
SST2_ROWS = 67349
SST2_HELD_OUT = [6677, 49712, 38268, 32909, 23395, 12967]
SST2_TRAINED = [6043, 63299]


def test_halves_are_those_of_the_authors_permutation():
  first = protocols.chosen_rows('[:half]', 11)
  assert np.flatnonzero(first).tolist() == sorted(PERMUTATION_OF_11[:5])
  second = protocols.chosen_rows('[half:]', 11)
  assert np.flatnonzero(second).tolist() == sorted(PERMUTATION_OF_11[5:])


def test_held_out_rows_are_those_of_the_authors_permutation():
  held_out = protocols.chosen_rows('[:1000]', SST2_ROWS)
  assert held_out.sum() == 1000
  assert held_out[SST2_HELD_OUT].all()
  assert not held_out[SST2_TRAINED].any()


@pytest.mark.torch
@pytest.mark.parametrize('count', [1, 2, 277, 1043])
def test_the_permutation_is_torchs(count):
  torch = pytest.importorskip('torch', reason='needs the extra `torch`')
  order = torch.randperm(count, generator=torch.Generator().manual_seed(42))
  want = np.zeros(count, bool)
  want[order[: count // 2].numpy()] = True
  np.testing.assert_array_equal(protocols.chosen_rows('[:half]', count), want)


@pytest.mark.parametrize('cut', ['half', '1000'])
@pytest.mark.parametrize('count', [1001, 1234, 2001])
def test_the_two_parts_of_a_split_are_all_of_it(cut, count):
  # Neither part loses its last row, and no row is in both.
  parts = [
    protocols.chosen_rows(f'[{s}]', count) for s in (f':{cut}', f'{cut}:')
  ]
  np.testing.assert_array_equal(parts[0] ^ parts[1], np.ones(count, bool))


@pytest.mark.parametrize(
  'task', definitions.GLUE + definitions.SUPER_GLUE, ids=lambda t: t.name
)
def test_no_row_has_two_uses(task):
  """Trained, chosen-by and reported-on rows are disjoint, MNLI's included."""
  used = {}
  for other in definitions.DEFINITIONS.values():
    if other.trained_as != task.trained_as or other.benchmark != task.benchmark:
      continue
    for kind in KINDS:
      for split, part in HYPERFORMER.parts(other, kind):
        mask = protocols.chosen_rows(part, 2003)
        for earlier in used.setdefault((other.config, split), []):
          assert not (mask & earlier).any()
        used[other.config, split].append(mask)


@pytest.mark.parametrize(
  ('name', 'train', 'validation', 'test'),
  [
    (
      'glue_cola',
      [('train', '')],
      [('validation', '[:half]')],
      [('validation', '[half:]')],
    ),
    (
      'glue_qnli',
      [('train', '[1000:]')],
      [('train', '[:1000]')],
      [('validation', '')],
    ),
    ('glue_mnli', [('train', '')], [], []),
    ('glue_mnli_matched', [], [], [('validation_matched', '')]),
    ('glue_mnli_mismatched', [], [('validation_mismatched', '')], []),
    (
      'super_glue_wic',
      [('train', '')],
      [('validation', '')],
      [('test', '')],
    ),
  ],
)
def test_hyperformers_table(name, train, validation, test):
  task = definitions.definition(name)
  found = [list(HYPERFORMER.parts(task, kind)) for kind in KINDS]
  assert found == [train, validation, test]


def open_sample(tmp_path, mixture, kind, **options):
  data = DataConfig(
    mixture=mixture, vocabulary='bytes', protocol='hyperformer', **options
  )
  return datasets.open_corpus(
    data,
    vocabularies.load_vocabulary('bytes'),
    token_dir=tmp_path,
    split=kind,
  )


def test_stores_hold_the_rows_of_their_part(tmp_path):
  mixture = ('glue_qqp', 'glue_rte', 'super_glue_copa')
  chosen = open_sample(tmp_path, mixture, 'validation')
  reported = open_sample(tmp_path, mixture, 'test')

  def rows(store):
    return [store.example(i)['idx'] for i in range(store.num_examples)]

  validation = {t.name: (s, rows(store)) for t, s, store in chosen.evaluation}
  test = {t.name: (s, rows(store)) for t, s, store in reported.evaluation}
  # QQP: its training set has 3,000 rows in the sample corpus, numbered through.
  held_out = np.flatnonzero(protocols.chosen_rows('[:1000]', 3000)).tolist()
  assert validation['glue_qqp'] == ('train[:1000]', held_out)
  trained = rows(chosen.train['glue_qqp'])
  assert trained == sorted({*range(3000)} - {*held_out})
  assert test['glue_qqp'][0] == 'validation'
  # RTE: the halves of its validation set, labelled, in the set's own order.
  halves = validation['glue_rte'], test['glue_rte']
  assert [half[0] for half in halves] == [
    'validation[:half]',
    'validation[half:]',
  ]
  count = len(halves[0][1]) + len(halves[1][1])
  mask = protocols.chosen_rows('[:half]', count)
  assert halves[0][1] == np.flatnonzero(mask).tolist()
  assert halves[1][1] == np.flatnonzero(~mask).tolist()
  # COPA is none of the protocol's tasks; that is said.
  assert validation['super_glue_copa'][0] == 'validation'
  assert [note for note in chosen.notes if 'super_glue_copa' in note]


def test_too_few_rows_to_hold_any_out(tmp_path):
  folder = tmp_path / 'glue' / 'sst2'
  folder.mkdir(parents=True)
  row = '{"sentence": "fine .", "label": 1, "idx": %d}\n'
  for split, count in (('train', 7), ('validation', 3)):
    text = ''.join(row % index for index in range(count))
    (folder / f'{split}.jsonl').write_text(text)
  with pytest.raises(
    UserError, match=r"glue_sst2: .*'train' has 7 rows, too few.*1000:"
  ):
    open_sample(
      tmp_path / 'tokens', 'glue_sst2', 'validation', source=f'files:{tmp_path}'
    )

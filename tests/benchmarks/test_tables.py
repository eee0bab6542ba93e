"""The figures of docs/performance.md come from the results, and are there."""

import json

import pytest

PAGE = '\n'.join(
  f'# {name}\n<!-- {name} -->\nold\n<!-- end of {name} -->\nkept'
  for name in (
    'train_step',
    'train_step_methods',
    'decode',
    'gated_matmul',
    'peers',
    'start_up',
    'train_step_gpu',
  )
)
SPREAD = {
  'median': 1234.0,
  'quartile_1': 1000.0,
  'quartile_3': 1500.5,
  'least': 990.0,
  'count': 7,
}
RATIO = {
  'of_medians': 1.125,
  'by_turn': {**SPREAD, 'median': 1.5, 'quartile_1': 1.4, 'quartile_3': 1.6},
  'of_least': 1.1,
  'of_processor_medians': 1.0625,
}
ABOUT = {
  'processor': 'Some CPU',
  'cpus': 3,
  'load_average': [1.25, 0.5, 0.5],
  'load_average_at_end': [2.5, 1.0, 1.0],
  'versions': {'jax': '0.10.2'},
}


@pytest.fixture
def tables(script):
  return script('tables')


def test_a_section_is_replaced_and_nothing_else(tables):
  report = {
    'first_step_seconds': 7.71,
    'first_step_seconds_with_tokenising': 26,
  }
  report['compile_seconds'] = {'6': 3.88, '24': 3.84}
  page = tables.filled(PAGE, {'start_up': report})
  assert 'old' not in page
  assert page.count('kept') == 7
  assert '7.7 s with its tokens' in page
  assert 'there is no `benchmarks/results/decode.json`' in page
  assert tables.filled(page, {'start_up': report}) == page


def test_a_page_without_a_place_is_refused(tables):
  with pytest.raises(ValueError, match='0 places for decode'):
    tables.filled(PAGE.replace('<!-- decode -->', ''), {})


def test_decoding_shows_the_ratio_of_every_shape(tables):
  shape = {'rows': 64, 'length': 32, 'written': 8}
  shape['variants'] = {
    'plain': {'milliseconds': SPREAD},
    'hypergrid': {'milliseconds': SPREAD, 'over_plain': RATIO},
  }
  lines = tables.decode({'shapes': [shape], **ABOUT}).splitlines()
  assert lines[2] == (
    '| 64 × 32, 8 written | `hypergrid` | 1,234 (1,000–1,500) |'
    ' 1,234 (1,000–1,500) | 1.12 | 1.50 (1.40–1.60) | **1.06** |'
  )
  assert lines[-1].startswith('Some CPU, 3 cores, jax 0.10.2; 7 turns; load')
  assert lines[-1].endswith('1.2 at the start, 2.5 at the end.')
  report = {'shapes': [shape], **ABOUT, 'GLIBC_TUNABLES': 'some=1'}
  assert ', `GLIBC_TUNABLES=some=1`; 7 turns' in tables.decode(report)


def test_groups_share_one_line_of_plain_t5(tables):
  group = {
    'plain': {'milliseconds': SPREAD, 'matmul_flops': 100, 'bytes': 50},
    'other': {
      'milliseconds': SPREAD,
      'over_plain': RATIO,
      'matmul_flops': 125,
      'bytes': 100,
      'conditioning': {**SPREAD, 'median': 3.14159},
    },
  }
  options = dict.fromkeys(
    ('rows', 'length', 'segments', 'd_model', 'd_ff', 'num_layers', 'dtype'), 9
  )
  report = {'options': options, **ABOUT, 'groups': [group, group]}
  text = tables.train_step(report)
  assert text.count('`plain`') == 1
  assert text.count('| 1.25 | 2.00 | 3.14 ') == 2


def test_the_page_is_what_the_results_say(tables):
  reports = {
    name: json.loads((tables.RESULTS / f'{name}.json').read_text())
    for name in tables.SECTIONS
    if (tables.RESULTS / f'{name}.json').exists()
  }
  text = tables.PAGE.read_text()
  assert tables.filled(text, reports) == text

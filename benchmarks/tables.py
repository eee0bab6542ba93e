"""Writes the figures of docs/performance.md from benchmarks/results/.

  python benchmarks/tables.py

The page has a place for each result, between `<!-- NAME -->` and
`<!-- end of NAME -->`; what stands there is replaced. The plots need the extra
`plots` and stay as they are without it.
"""

from collections.abc import Callable, Iterable
import importlib.util
import json
import pathlib
import re
from typing import Any

from hypergrid_jax import files

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
PAGE = ROOT / 'docs' / 'performance.md'
METHODS_PLOT = ROOT / 'docs' / 'performance_methods.svg'

Report = dict[str, Any]
RATIO_HEAD = ('wall, of medians', 'turn by turn', 'processor time')


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
  """A Markdown table; the first column is left-aligned."""
  head = list(head)
  lines = [head, ['---', *['---:'] * (len(head) - 1)], *rows]
  return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def milliseconds(spread: dict[str, float]) -> str:
  """Median and quartiles."""
  return (
    f'{_number(spread["median"])}'
    f' ({_number(spread["quartile_1"])}–{_number(spread["quartile_3"])})'
  )


def ratios(ratio: dict[str, Any]) -> list[str]:
  """Columns of RATIO_HEAD."""
  turns = ratio['by_turn']
  return [
    f'{ratio["of_medians"]:.2f}',
    f'{turns["median"]:.2f}'
    f' ({turns["quartile_1"]:.2f}–{turns["quartile_3"]:.2f})',
    f'**{ratio["of_processor_medians"]:.2f}**',
  ]


def about(report: Report, counted: dict[str, float]) -> str:
  """One line on where and how something was measured."""
  versions = report['versions']
  named = ('jax', 'torch', 'transformers')
  packages = ', '.join(
    f'{name} {versions[name]}' for name in named if name in versions
  )
  if tunables := report.get('GLIBC_TUNABLES'):
    packages += f', `GLIBC_TUNABLES={tunables}`'
  load = report['load_average'][0], report['load_average_at_end'][0]
  return (
    f'{report["processor"]}, {report["cpus"]} cores, {packages};'
    f' {counted["count"]} turns; load of the machine {load[0]:.1f} at the'
    f' start, {load[1]:.1f} at the end.'
  )


def train_step(report: Report) -> str:
  """Every variant beside plain T5."""
  rows, plain = [], report['groups'][0]['plain']
  for number, group in enumerate(report['groups']):
    for name, one in group.items():
      if name == 'plain' and number:
        continue
      rows.append(
        [
          f'`{name}`',
          milliseconds(one['milliseconds']),
          *(ratios(one['over_plain']) if 'over_plain' in one else ['1'] * 3),
          _over(one, group['plain'], 'matmul_flops'),
          _over(one, group['plain'], 'bytes'),
          milliseconds(one['conditioning']) if 'conditioning' in one else '',
        ]
      )
  options = report['options']
  shape = (
    f'{options["rows"]} packed rows of {options["length"]} tokens with'
    f' {options["segments"]} segments, d_model {options["d_model"]}, d_ff'
    f' {options["d_ff"]}, {options["num_layers"]}+{options["num_layers"]}'
    f' layers, {options["dtype"]}.'
  )
  head = ('', 'ms', *RATIO_HEAD, 'FLOPs', 'bytes', 'conditioning, ms')
  return '\n\n'.join(
    [table(head, rows), f'{shape} {about(report, plain["milliseconds"])}']
  )


def decode(report: Report) -> str:
  """Every shape, HyperGrid over plain T5."""
  rows = []
  for shape in report['shapes']:
    plain = shape['variants']['plain']
    for name, one in shape['variants'].items():
      if name != 'plain':
        rows.append(
          [
            f'{shape["rows"]} × {shape["length"]}, {shape["written"]} written',
            f'`{name}`',
            milliseconds(plain['milliseconds']),
            milliseconds(one['milliseconds']),
            *ratios(one['over_plain']),
          ]
        )
  head = ('rows × tokens', '', 'plain, ms', 'ms', *RATIO_HEAD)
  return '\n\n'.join([table(head, rows), about(report, plain['milliseconds'])])


def gated_matmul(report: Report) -> str:
  """Every form and shape over the plain product, in processor time."""
  rows = []
  for shape in report['results']:
    for part in ('product', 'gradients'):
      found = {
        name: f'{one["over_plain"]["of_processor_medians"]:.2f}'
        for name, one in shape[part].items()
        if name != 'plain'
      }
      columns = ('loop', 'loop_256', 'loop_512', 'loop_1024', 'weight')
      rows.append(
        [
          f'{shape["rows"]} × {shape["length"]}, {shape["segments"]} a row',
          part,
          *(found.get(name, '') for name in (*columns, 'naive', 'auto')),
        ]
      )
  head = (
    *('rows × tokens, segments', ''),
    *('all at once', 'by 256', 'by 512', 'by 1024', 'weight per row'),
    *('naive', 'chosen'),
  )
  plain = report['results'][0]['product']['plain']['milliseconds']
  return '\n\n'.join([table(head, rows), about(report, plain)])


def peers(report: Report) -> str:
  """Training and generation, each side's rate."""
  parts = []
  for name, unit in (
    ('training', 'tokens_per_second'),
    ('generation', 'examples_per_second'),
  ):
    found = report[name]
    rows = [
      [
        f'{name}, `{variant}`',
        f'{one[unit]:,.1f}',
        f'{one[f"{unit}_of_processor_time"]:,.1f}',
        _of_peer(one, 'transformers'),
        _of_peer(one, 'transformers bfloat16'),
        milliseconds(one['milliseconds']),
      ]
      for variant, one in found['variants'].items()
    ]
    what = unit.replace('_', ' ')
    head = (
      *(what, 'wall', 'of processor time', 'over transformers'),
      *('over its bfloat16', 'ms a turn'),
    )
    padding = ', '.join(
      f'{side} {share:.1%}'
      for side, share in found.get(
        'padding', found.get('padding_of_inputs')
      ).items()
    )
    parts += [table(head, rows), f'Padding: {padding}.']
  spread = report['training']['variants']['plain']['milliseconds']
  return '\n\n'.join([*parts, about(report, spread)])


def start_up(report: Report) -> str:
  """The first step, and what depth costs to compile."""
  seconds = report['compile_seconds']
  return (
    'From the command to the first step of `gin/runs/quickstart.gin`:'
    f' {report["first_step_seconds"]:.1f} s with its tokens on the disk,'
    f' {report["first_step_seconds_with_tokenising"]:.1f} s without. Compiling'
    f' the step takes {seconds["6"]:.1f} s with 6+6 layers,'
    f' {seconds["24"]:.1f} s with 24+24.'
  )


def train_step_methods(report: Report) -> str:
  """Every method, as `train_step`, and the plot."""
  plot = f'![Train step of each method over plain T5]({METHODS_PLOT.name})'
  return f'{train_step(report)}\n\n{plot}'


SECTIONS: dict[str, Callable[[Report], str]] = {
  'train_step': train_step,
  'train_step_methods': train_step_methods,
  'decode': decode,
  'gated_matmul': gated_matmul,
  'peers': peers,
  'start_up': start_up,
  'train_step_gpu': train_step,
}


def filled(page: str, reports: dict[str, Report]) -> str:
  """The page with the figures of all reports; what is absent is said to be."""
  for name, section in SECTIONS.items():
    text = f'Not measured: there is no `benchmarks/results/{name}.json`.'
    if name in reports:
      text = section(reports[name])
    start, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
    pattern = f'{re.escape(start)}.*?{re.escape(end)}'
    block = f'{start}\n\n{text}\n\n{end}'
    page, count = re.subn(pattern, lambda _, b=block: b, page, flags=re.S)
    if count != 1:
      raise ValueError(f'{count} places for {name} in {PAGE.name}, expected 1')
  return page


def plot_methods(report: Report, path: pathlib.Path) -> None:
  """Draws each method's step over plain T5's, with the quartiles of turns."""
  import matplotlib

  matplotlib.use('svg')
  matplotlib.rcParams['svg.hashsalt'] = 'fixed'  # the same file for the same
  from matplotlib import pyplot

  found = {
    name: one['over_plain']['by_turn']
    for group in report['groups']
    for name, one in group.items()
    if name != 'plain'
  }
  names = sorted(found, key=lambda name: found[name]['median'])
  medians = [found[name]['median'] for name in names]
  spreads = [
    [abs(found[name][side] - found[name]['median']) for name in names]
    for side in ('quartile_1', 'quartile_3')
  ]
  figure, axes = pyplot.subplots(figsize=(7, 0.3 * len(names) + 1))
  axes.barh(names, medians, xerr=spreads, color='#6699cc', ecolor='#333333')
  axes.axvline(1.0, color='black', linewidth=0.8)
  axes.axvline(1.15, color='black', linewidth=0.8, linestyle='--')
  axes.set_xlabel('train step over plain T5, median and quartiles of the turns')
  figure.tight_layout()
  figure.savefig(path, metadata={'Date': None})
  pyplot.close(figure)


def main() -> None:
  """Writes the page, and the plots where they can be drawn."""
  reports = {
    name: json.loads((RESULTS / f'{name}.json').read_text())
    for name in SECTIONS
    if (RESULTS / f'{name}.json').exists()
  }
  page = filled(PAGE.read_text(), reports)
  files.write_text(PAGE, [page])
  if 'train_step_methods' in reports:
    if importlib.util.find_spec('matplotlib') is None:
      print("no plots: pip install -e '.[plots]'")
    else:
      plot_methods(reports['train_step_methods'], METHODS_PLOT)


def _over(one: Report, base: Report, field: str) -> str:
  """A ratio of counts, where both have them."""
  if not one.get(field) or not base.get(field):
    return ''
  return f'{one[field] / base[field]:.2f}'


def _of_peer(one: Report, peer: str) -> str:
  """A rate over a peer's, where they are compared."""
  ratio = one.get(f'over_{peer}')
  return '' if ratio is None else f'**{ratio:.2f}**'


def _number(value: float) -> str:
  return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


if __name__ == '__main__':
  main()

"""The kernel regime on a data set: views, Gram matrix, optima, classifiers.

What the closed forms of `jssl.kernel_regime` are worth, beside the kernel that
they were made of and one that knew the labels. Kiani, Balestriero, Chen, Lloyd
and LeCun, "Joint Embedding Self-Supervised Learning in the Kernel Regime",
2022, arXiv 2209.14884.

A workdir has `config.json`, the kernel of all points in `gram.npz`, a line for
each case that is done in `rows.jsonl`, and the results: `kernels.json`,
`kernels.md`, `kernels.html` and the figures of the page, an SVG each. What is
there is not computed again. A case that can't be done leaves its reason in the
results, and is tried again the next time.
"""

import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jssl.config.parse import to_dict
from jssl.kernel_regime.study import cases as cases_lib
from jssl.kernel_regime.study import page as page_lib
from jssl.kernel_regime.study import points as points_lib
from jssl.kernel_regime.study.cases import Case
from jssl.kernel_regime.study.page import Results
from jssl.kernel_regime.study.points import Grams
from jssl.kernel_regime.study.setting import Setting
from jssl.kernel_regime.study.spirals import NOISES, toy
from jssl.runtime import files
from jssl.runtime.workdir import claim_workdir

Tell = Callable[[str], None]


class Written(NamedTuple):
  """What the study leaves.

  Attributes:
    table: of the main setting, as text.
    paths: of the results.
    complete: whether every case could be done.
  """

  table: str
  paths: tuple[pathlib.Path, ...]
  complete: bool


def _whole_lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Yields rows; one that was cut off by an interruption is passed over."""
  if path.exists():
    for line in path.read_text().splitlines():
      try:
        yield json.loads(line)
      except json.JSONDecodeError:
        continue


def _grams(of: Setting, workdir: pathlib.Path, tell: Tell) -> Grams:
  """Returns the kernel, which is kept; claims the workdir.

  A new one is claimed when it is known that the config can be used, so that
  the same workdir takes the next try.
  """
  path = workdir / "gram.npz"
  if (workdir / "config.json").exists():
    claim_workdir(to_dict(of), workdir)
    kept = points_lib.load(path)
    if kept is not None:
      return kept
  found = points_lib.grams(of)
  for labels in sorted({case.labels for case in _all_cases(of)}):
    cases_lib.folds_of(found, labels, of.kernels)
  tell(
    f"{found.kernel} of {len(found.k)} points and {len(found.k_test)} of "
    f"test: {found.seconds:.1f} s"
  )
  claim_workdir(to_dict(of), workdir)
  points_lib.save(path, found)
  return found


def _all_cases(of: Setting) -> list[Case]:
  """Returns the cases of all tables, each once."""
  cases = cases_lib.main(of.kernels, of.loss)
  for by_value in cases_lib.swept(of.kernels, of.loss).values():
    for swept in by_value.values():
      cases += swept
  return [*dict.fromkeys(cases)]


def run(
  of: Setting,
  workdir: pathlib.Path,
  *,
  command: str,
  tell: Tell = lambda line: None,
) -> Written:
  """Runs what isn't done of the study, and writes the results.

  Args:
    of: see configs/kernel_fashion_mnist.py.
    workdir: new, or that of the same config.
    command: that makes it again, for the page.
    tell: takes lines of progress.

  Raises:
    ValueError: the config can't be used, with the key to change, or the workdir
      belongs to another one.
    TypeError: a value of the config is of another type.
    FileNotFoundError: the data set isn't prepared.
  """
  of.kernels.check_memory()
  found = _grams(of, workdir, tell)
  cases = _all_cases(of)
  path = workdir / "rows.jsonl"
  rows = {Case(**row["case"]): row for row in _whole_lines(path)}
  for number, case in enumerate(cases, 1):
    if case in rows:
      continue
    row = cases_lib.row_or_reason(found, case, of.kernels)
    if row["not_done"] is None:
      with path.open("a") as file:
        # After an interruption within a line, a new one.
        file.write("\n" * (path.stat().st_size > 0) + json.dumps(row))
    rows[case] = row
    tell(f"[{number}/{len(cases)}] {page_lib.line(row)}")
  toys = [toy(noise, seed=of.kernels.seed) for noise in NOISES]
  results = Results(
    command=command,
    machine=(
      f"{os.cpu_count()} CPU cores, {platform.system()} "
      f"{platform.machine()}, JAX {jax.__version__}"
    ),
    config=of,
    setting=of,
    grams=found,
    rows=rows,
    toys=toys,
  )
  return _write(workdir, results)


def _write(workdir: pathlib.Path, results: Results) -> Written:
  """Writes kernels.json, kernels.md, kernels.html and an SVG per figure."""
  paths = tuple(workdir / f"kernels.{end}" for end in ("json", "md", "html"))
  as_json, as_markdown, as_html = paths
  files.write_json(as_json, page_lib.numbers(results))
  text = page_lib.markdown(results)
  as_markdown.write_text(text, encoding="utf-8")
  drawn = page_lib.drawings(results)
  as_html.write_text(page_lib.html(results, drawn), encoding="utf-8")
  for name, drawing in drawn.items():
    (workdir / f"{name}.svg").write_text(drawing.svg, encoding="utf-8")
  complete = all(row.get("not_done") is None for row in results.rows.values())
  return Written(page_lib.main_table(results), paths, complete)

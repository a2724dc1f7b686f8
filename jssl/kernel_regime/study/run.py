"""The kernel study: views, Gram matrix, optimal embeddings, classifiers.

Compares the closed forms of `jssl.kernel_regime` with the raw kernel and with a
supervised one. A workdir has `config.json`, the kernel of all points in
`gram.npz`, one line per finished experiment in `results.jsonl`, and the report:
`kernels.json`, `kernels.md`, `kernels.html` and one SVG per figure. Finished
experiments are not repeated; failed ones are reported and tried again in the
next run.
"""

import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jssl.config.parse import to_dict
from jssl.kernel_regime.study import dataset, evaluate, report
from jssl.kernel_regime.study.config import KernelStudy
from jssl.kernel_regime.study.dataset import GramMatrices
from jssl.kernel_regime.study.experiments import Experiment, all_experiments
from jssl.kernel_regime.study.report import Results
from jssl.kernel_regime.study.spirals import NOISES, make_spirals
from jssl.report.tables import markdown_table
from jssl.runtime import files
from jssl.runtime.workdir import claim_workdir


class Written(NamedTuple):
  """Main table, one line per failed experiment, and paths of the reports."""

  table: str
  failures: list[str]
  paths: tuple[pathlib.Path, ...]


def _read_lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Yields finished results; skips a line cut off by an interruption."""
  if path.exists():
    for line in path.read_text().splitlines():
      try:
        yield json.loads(line)
      except json.JSONDecodeError:
        continue


def _claim_with_grams(
  config: KernelStudy, workdir: pathlib.Path, log: Callable[[str], None]
) -> GramMatrices:
  """Claims the workdir; loads the Gram matrices, or computes and saves them."""
  path = workdir / "gram.npz"
  if (workdir / "config.json").exists():
    claim_workdir(to_dict(config), workdir)
    saved = dataset.load(path)
    if saved is not None:
      return saved
  grams = dataset.compute_grams(config)
  for labels in sorted({e.labels for e in all_experiments(config)}):
    evaluate.num_folds(grams, labels, config)
  log(
    f"Computed {grams.kernel} of {len(grams.k)} points and "
    f"{len(grams.k_test)} test images ({grams.seconds:.1f} s)."
  )
  # Only now, so that a corrected config can use the same workdir.
  claim_workdir(to_dict(config), workdir)
  dataset.save(path, grams)
  return grams


def run(
  config: KernelStudy,
  workdir: pathlib.Path,
  *,
  command: str,
  log: Callable[[str], None] = lambda line: None,
) -> Written:
  """Runs the unfinished experiments of a study and writes the report.

  Raises:
    ValueError: if the config does not fit the data set or memory, or the
      workdir belongs to another config.
    FileNotFoundError: if the data set is not prepared.
  """
  config.check_memory()
  grams = _claim_with_grams(config, workdir, log)
  experiments = all_experiments(config)
  path = workdir / "results.jsonl"
  results = {Experiment(**r["experiment"]): r for r in _read_lines(path)}
  for number, experiment in enumerate(experiments, 1):
    if experiment in results:
      continue
    result = evaluate.evaluate(grams, experiment, config)
    if result["failure"] is None:
      with path.open("a") as file:
        # A leading newline: the last line may have been cut off.
        file.write("\n" * (path.stat().st_size > 0) + json.dumps(result))
    results[experiment] = result
    log(f"[{number}/{len(experiments)}] {report.log_line(result)}")
  return _write(
    workdir,
    Results(
      command=command,
      machine=(
        f"{os.cpu_count()} CPU cores, {platform.system()} "
        f"{platform.machine()}, JAX {jax.__version__}"
      ),
      config=config,
      grams=grams,
      by_experiment=results,
      spirals=[make_spirals(n, seed=config.problem.seed) for n in NOISES],
    ),
  )


def _write(workdir: pathlib.Path, results: Results) -> Written:
  paths = tuple(workdir / f"kernels.{end}" for end in ("json", "md", "html"))
  json_path, markdown_path, html_path = paths
  files.write_json(json_path, report.to_json(results))
  markdown_path.write_text(report.to_markdown(results), encoding="utf-8")
  figures = report.draw_figures(results)
  html_path.write_text(report.to_html(results, figures), encoding="utf-8")
  for name, svg in figures.items():
    (workdir / f"{name}.svg").write_text(svg, encoding="utf-8")
  headings, rows, _ = report.accuracy_table(results)
  return Written(markdown_table(headings, rows), results.failures(), paths)

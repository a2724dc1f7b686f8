"""The kernel study: views, Gram matrix, optimal embeddings, classifiers.

Compares the closed forms of `jssl.kernel_regime` with the raw kernel and with a
supervised one. A workdir has `config.json`, the kernel of all points in
`gram.npz`, one line per finished experiment in `results.jsonl`, and the report:
`kernels.json`, `kernels.md`, `kernels.html` and one SVG per figure. Finished
experiments are not repeated; failed ones are reported and tried again in the
next run.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

from absl import logging

from jssl.config.parse import to_dict
from jssl.kernel_regime.study import dataset, evaluate, report
from jssl.kernel_regime.study.config import KernelStudy
from jssl.kernel_regime.study.dataset import GramMatrices
from jssl.kernel_regime.study.experiments import Experiment, all_experiments
from jssl.kernel_regime.study.report import Results
from jssl.kernel_regime.study.spirals import NOISES, make_spirals
from jssl.report.write import machine, write
from jssl.runtime import files
from jssl.runtime.workdir import claim_workdir


def _finished(path: pathlib.Path) -> dict[Experiment, dict[str, Any]]:
  """Reads the results of finished experiments; skips damaged ones."""
  rows, found = files.read_json_lines(path), {}
  for row in rows:
    with contextlib.suppress(KeyError, TypeError, ValueError):
      report.check(row)
      found[Experiment(**row["experiment"])] = row
  if len(found) < len(rows):
    logging.warning(
      "Skipped %d damaged results of %s.", len(rows) - len(found), path
    )
  return found


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
) -> tuple[str, bool]:
  """Runs the unfinished experiments of a study and writes the report.

  Returns:
    The contents of kernels.md, and True if all experiments succeeded.

  Raises:
    ValueError: if the config does not fit the data set or memory, or the
      workdir belongs to another config.
    FileNotFoundError: if the data set is not prepared.
  """
  with config.memory_limit():
    grams = _claim_with_grams(config, workdir, log)
    experiments = all_experiments(config)
    path = workdir / "results.jsonl"
    done = _finished(path)
    for number, experiment in enumerate(experiments, 1):
      if experiment in done:
        continue
      result = evaluate.evaluate(grams, experiment, config)
      if result["failure"] is None:
        with path.open("a") as file:
          # A leading newline: the last line may have been cut off.
          file.write("\n" * (path.stat().st_size > 0) + json.dumps(result))
      done[experiment] = result
      log(f"[{number}/{len(experiments)}] {report.log_line(result)}")
    spirals = [make_spirals(n, seed=config.problem.seed) for n in NOISES]
    results = Results(command, machine(), config, grams, done, spirals)
    figures = report.draw_figures(results)
  text = report.to_markdown(results)
  write(
    workdir,
    "kernels",
    text,
    figures=figures,
    data=report.to_json(results),
    html=report.to_html(results, figures),
  )
  return text, not results.failures()

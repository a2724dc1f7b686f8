"""What the features are like: the part of the page that needs no labels."""

from collections.abc import Sequence
from html import escape

from jssl import diagnostics
from jssl.report import elements, figures
from jssl.report.read import Diagnostics, Run

# Heading, name, number of decimals.
COLUMNS = (
  ("collapse AUC", "collapse_auc", 3),
  ("RankMe", "rank_me", 1),
  ("LiDAR", "lidar", 1),
  ("alpha-ReQ", "alpha_req", 2),
  ("alignment", "alignment", 3),
  ("uniformity", "uniformity", 2),
  ("H[M|Z], nats", "image_entropy_given_features", 2),
  ("nearest-mean error", "nearest_mean_error", 3),
)
BOUND_TERMS = (
  ("2 (1 - sigma)", "outside"),
  ("R / min p", "diverging"),
  ("sigma L delta / r", "diameter"),
  ("2 sigma eps / r", "tolerance"),
  ("rho", "rho"),
  ("Delta", "spread"),
  ("max mu . mu", "max_inner"),
  ("must be below", "threshold"),
  ("bound", "bound"),
)


# Above, what varies is all but one direction.
_COLLAPSED = 0.99


def _cell(found: Diagnostics, name: str, decimals: int) -> str:
  value = found.values.get(name)
  return "-" if value is None else f"{value:,.{decimals}f}"


def _holds(found: Diagnostics) -> str:
  holds = found.values.get("bound/holds")
  return "-" if holds is None else "holds" if holds else "doesn't hold"


def _sample(shown: Sequence[tuple[str, Diagnostics]]) -> str:
  """Says what views the numbers are of, where the probe has said it."""
  said = dict.fromkeys(
    (d.views, d.images, d.num_classes) for _, d in shown if d.images
  )
  return " and ".join(
    f"of {views} random views of each of {images:,} images"
    + (f" of {classes} classes" if classes else "")
    for views, images, classes in said
  )


def _aucs(run: Run, dataset: str, features: str) -> dict[int, float]:
  return {
    s.step: s.collapse_auc
    for s in sorted(run.spectra, key=lambda s: s.step)
    if (s.dataset, s.features) == (dataset, features)
  }


def _verdict(run: Run, dataset: str) -> str:
  """Says how collapsed the run is, and whether it has begun to collapse."""
  aucs = _aucs(run, dataset, "backbone")
  if not aucs:
    return ""
  last = max(aucs)
  now = f"The collapse AUC is {aucs[last]:.3f} at step {last:,}"
  random = _aucs(run, dataset, "random")
  if random:
    now += f", and {random[0]:.3f} of the random backbone"
  if aucs[last] > _COLLAPSED:
    now = f"<strong>The features have collapsed.</strong> {now}"
  steps = [*aucs]
  if len(steps) < 3:
    return (
      f"<p>{now}. Whether it rises shows over three checkpoints or more; the "
      f"probe has read {len(steps)}.</p>"
    )
  ranked = diagnostics.rank_checkpoints([*aucs.values()])
  best = ", ".join(f"{steps[i]:,}" for i in ranked[:3])
  order = (
    f"The least collapsed checkpoints, in order: step {best}. A run counts as "
    "collapsing once its last two checkpoints have gone a quarter of the way "
    "from its lowest AUC to 1."
  )
  onset = diagnostics.collapse_onset(steps, [*aucs.values()])
  if onset is None:
    return f"<p>{now}. It has not risen for good since any step. {order}</p>"
  return (
    f"<p><strong>The run has begun to collapse: its collapse AUC was lowest at "
    f"step {onset:,} ({aucs[onset]:.3f}).</strong> {now}. {order}</p>"
  )


def _tables(shown: Sequence[tuple[str, Diagnostics]]) -> str:
  rows = {
    title: [_cell(found, name, decimals) for _, name, decimals in COLUMNS]
    for title, found in shown
  }
  content = elements.figure(
    elements.scores("features", [h for h, _, _ in COLUMNS], rows),
    "Collapse AUC, RankMe and alpha-ReQ are of all training images; the rest "
    f"{_sample(shown) or 'of random views of some'}. Lower AUC and higher "
    "RankMe and LiDAR: more directions are used. H[M|Z] is an upper bound of "
    "what a view&#x27;s features leave open about which image it is of. The "
    "error of the nearest class mean is on test, of the classes whose views "
    "were looked at.",
  )
  bounds = {
    title: [
      *(_cell(found, f"bound/{name}", 3) for _, name in BOUND_TERMS),
      _holds(found),
    ]
    for title, found in shown
    if "bound/rho" in found.values
  }
  if bounds:
    content += elements.figure(
      elements.scores("", [*(h for h, _ in BOUND_TERMS), "condition"], bounds),
      "Terms of the bound of Huang et al. (ICLR 2023) on that error, where "
      "their sum rho is least. It is proven where max mu . mu is below its "
      "limit, which is rare: the terms say what stands in its way. R and min p "
      "are those of the whole training set, of the classes looked at.",
    )
  others = sorted(
    {name for _, found in shown for name in found.values}
    - {name for _, name, _ in COLUMNS}
    - {"bound/holds", *(f"bound/{name}" for _, name in BOUND_TERMS)}
  )
  rows = {
    name: [_cell(found, name, 3) for _, found in shown] for name in others
  }
  content += (
    "<details><summary>All other numbers</summary>"
    + elements.scores("", [title for title, _ in shown], rows)
    + "</details>"
  )
  missing = [
    f"<li>{escape(title)}: {escape(name)}: {escape(why)}</li>"
    for title, found in shown
    for name, why in found.not_measured.items()
  ]
  if missing:
    content += f"<p>Not measured:</p><ul>{''.join(missing)}</ul>"
  return content


def content(run: Run, dataset: str, step: int | None) -> str:
  """Returns the part of a page, as HTML.

  Args:
    run: what was read.
    dataset: that was probed.
    step: of the checkpoint that is shown.
  """
  of_run = sorted(
    (
      d
      for d in run.diagnostics
      if d.dataset == dataset and d.features == "backbone"
    ),
    key=lambda d: d.step,
  )
  if not of_run:
    command = f"python -m jssl.probe --workdir={run.workdir} --diagnostics"
    return _verdict(run, dataset) + elements.missing(
      f"Nothing else was measured; <code>{escape(command)}</code> does it."
    )
  steps = {d.step for d in of_run}
  step = step if step in steps else max(steps)
  # The backbone comes last, which a table shows as what counts.
  here = sorted(
    (d for d in of_run if d.step == step), key=lambda d: d.at == "backbone"
  )
  random = [
    ("random backbone", d)
    for d in run.diagnostics
    if d.dataset == dataset and d.features == "random"
  ]
  curves = [c for c in run.concentrations if c.dataset == dataset]
  return (
    _verdict(run, dataset)
    + _tables([*random, *((f"{d.at}, step {step:,}", d) for d in here)])
    + elements.plot(
      figures.features_over_time(
        sorted(
          (
            s
            for s in run.spectra
            if (s.dataset, s.features) == (dataset, "backbone")
          ),
          key=lambda s: s.step,
        ),
        of_run,
      ),
      "Spectra, and alignment against uniformity, over steps",
      "Left: a curve for each probed checkpoint, dark ones late. Right: the "
      "path of the checkpoints; down is towards views that agree, left towards "
      "features that fill the sphere.",
    )
    + elements.plot(
      figures.concentration(curves[-1] if curves else None, here),
      "How the augmentation concentrates classes, and views features",
      "Left: the share of the worst class that lies outside of a main part "
      "whose images have views within delta of each other (as pixels, of "
      "views made 32 px wide at most), between two bounds for these images and "
      "views. Right: the share of images with two views "
      f"whose features lie further apart than epsilon, at step {step:,}.",
    )
  )

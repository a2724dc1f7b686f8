"""Pages of docs/ run, and the numbers in them are those of the functions."""

import doctest
import functools
import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jssl
from jssl import augment, diagnostics, losses, models, objectives
from jssl.__main__ import _COMMANDS
from jssl.config.parse import parse
from jssl.config.schema import Config
from jssl.diagnostics.batch import NAMES

ROOT = pathlib.Path(jssl.__file__).parents[1]
# Each page, and the library that it is about.
LIBRARIES = {
  "losses.md": losses,
  "diagnostics.md": diagnostics,
  "augment.md": augment,
  "models.md": models,
  "objectives.md": objectives,
}
DOCS = ROOT / "docs"
TEXTS = {
  str(path.relative_to(DOCS)): path.read_text()
  for path in sorted(DOCS.rglob("*.md"))
}
# Others have wide tables and commands.
NARROW = (*LIBRARIES, "embed.md", "images.md", "probe.md")
BLOCKS = [
  (page, block)
  for page, text in TEXTS.items()
  for block in re.findall(
    r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL
  )
]


def functions_of(library):
  names = library.__all__
  return [name for name in names if inspect.isfunction(getattr(library, name))]


FUNCTIONS = functions_of(losses)


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled():
  """What is compiled here runs once: optimising it costs more than it saves."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def close(got, expected, rtol=1e-5, atol=1e-5):
  np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


# The pages themselves.


def line_of(page, block):
  return TEXTS[page][: TEXTS[page].index(block)].count("\n") + 1


@pytest.mark.parametrize(
  ("page", "block"), BLOCKS, ids=[f"{p}:{line_of(p, b)}" for p, b in BLOCKS]
)
def test_an_example_runs(page, block):
  # Padded, so that a traceback names the line of the page.
  padded = "\n" * (line_of(page, block) - 1) + block
  code = compile(padded, str(ROOT / "docs" / page), "exec")
  names = {"__name__": "example"}
  exec(code, names)
  if get_config := names.get("get_config"):
    parse(get_config(), Config)


# Commands of pages and of the README, whose lines may continue.
COMMANDS = [
  (page, command)
  for page, text in {
    **TEXTS,
    "README.md": (ROOT / "README.md").read_text(),
  }.items()
  for command in re.findall(
    rf"^ *(?:\w+=\S+ )*((?:python -m jssl\.|jssl (?:{'|'.join(_COMMANDS)}) )"
    r"(?:[^\n]|(?<=\\)\n)*)",
    text,
    re.MULTILINE,
  )
]


@functools.cache
def flags_of(module):
  spec = importlib.util.find_spec(module)
  folder = spec.submodule_search_locations
  files = pathlib.Path(*folder).glob("*.py") if folder else [spec.origin]
  texts = [pathlib.Path(file).read_text() for file in files]
  return set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', "".join(texts)))


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_and_its_flags_exist(page, command):
  words = re.sub(r"\\\n|`.*| #.*", " ", command).split()
  if words[0] == "jssl":
    name, *arguments = words[1:]
    module, _ = _COMMANDS[name]
  else:
    module, *arguments = words[2:]
  given = re.findall(r"(?:^| )--(\w+)(?![\w.])", " ".join(arguments))
  assert set(given) <= flags_of(module), page
  for config in re.findall(r"--config=([\w/.]+)", " ".join(arguments)):
    shipped = {path.stem for path in (ROOT / "configs").glob("*.py")}
    own = {"CONFIG", "FILE", "own", "my_config.py", "gs"}
    assert pathlib.Path(config).stem in shipped | own or config in own, page


@pytest.mark.parametrize("page", TEXTS)
def test_names_of_commands_exist(page):
  named = re.findall(
    r"(?:^ {4}|^|`)jssl ([a-z]+)\b(?! \w+ )", TEXTS[page], re.M
  )
  prose = {"pretrains", "in", "is"}
  assert set(named) - prose <= {*_COMMANDS, "configs"}


@pytest.mark.parametrize("page", NARROW)
def test_lines_are_short(page):
  too_long = [line for line in TEXTS[page].splitlines() if len(line) > 110]
  assert too_long == []


@pytest.mark.parametrize("name", ["losses", "diagnostics"])
def test_a_library_imports_nothing_heavy(name):
  heavy = (
    "flax optax orbax clu grain ml_collections tensorflow sklearn scipy PIL"
  )
  code = (
    f"import sys\nfrom jssl import {name}\n"
    f"print([m for m in {heavy.split()} if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
  ("library", "name"),
  [
    (library, name)
    for library in LIBRARIES.values()
    for name in library.__all__
  ],
  ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_an_example_of_a_docstring_runs(library, name):
  function = getattr(library, name)
  globs = {**vars(library), "np": np}
  tests = doctest.DocTestFinder(recurse=False).find(function, name, globs=globs)
  runner = doctest.DocTestRunner(verbose=False)
  for test in tests:
    runner.run(test)
  assert runner.failures == 0
  shared = name.endswith("_terms") or name == "dino_center"
  assert runner.tries > 0 or shared or not inspect.isfunction(function)


def test_the_page_of_diagnostics_has_all_of_them():
  named = set(re.findall(r"\b\w+\b", TEXTS["diagnostics.md"]))
  assert set(functions_of(diagnostics)) <= named


# The table of values. Losses are compiled: that is faster than each of their
# operations by itself.

N = SimpleNamespace(b=8, d=24, n=12, m=3, q=6, k=8, T=0.2, s=3.0, c=-1.5)
CONSTANTS = {
  **vars(N),
  "t": 2.0,
  "variance_weight": 25.0,
  "marginal_weight": 2.3,
}
EYE = jnp.eye(N.d)
EQUAL = jnp.broadcast_to(EYE[:1], (N.b, N.d))
APART = EYE[: N.b]
VICREG = {
  "invariance_weight": 25.0,
  "variance_weight": CONSTANTS["variance_weight"],
  "covariance_weight": 1.0,
}
DISSL = {"student_temperature": 1.0, "teacher_temperature": 0.5}
WEIGHTS = {
  "marginal_weight": CONSTANTS["marginal_weight"],
  "invariance_weight": 0.8,
}
DINO = {"student_temperature": 0.1, "teacher_temperature": 0.04}
SWAV = {"temperature": 0.1, "epsilon": 0.05, "iterations": 3, "num_large": 2}
# Prototypes that are far enough for a softmax to be one of them.
PROTOTYPES = 100 * EYE[: N.k]


def two(z):
  """Both views, alike: [2, b, d]."""
  return jnp.stack([z, z])


def white(rows, columns):
  """Features that are uncorrelated, with unit biased variance."""
  hadamard = np.array([[1.0]])
  while len(hadamard) < rows:
    hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
  return jnp.asarray(hadamard[:, 1 : columns + 1], jnp.float32)


@functools.partial(jax.jit, static_argnames="samples")
def gaussian(samples):
  """The mean of `sigreg` over samples of a Gaussian."""

  def one(key):
    z = jax.random.normal(key, (64, 8))
    return losses.sigreg(z, key=key, num_slices=64)

  return jnp.mean(
    jax.lax.map(one, jax.random.split(jax.random.key(0), samples))
  )


@jax.jit
def spectral(z):
  return losses.spectral_contrastive(z, z)


@jax.jit
def cissl(z):
  rows = jnp.concatenate([z, z])
  return losses.cissl(rows, rows, temperature=N.T)


@jax.jit
def supervised(z):
  labels = jnp.arange(N.n) // N.m
  return losses.supervised_contrastive(z, labels, temperature=N.T)


@jax.jit
def dissl(z):
  return losses.dissl(
    two(z), two(z), PROTOTYPES, PROTOTYPES, **DISSL, **WEIGHTS
  )


@jax.jit
def dissl_terms(z):
  return losses.dissl_terms(two(z), two(z), PROTOTYPES, PROTOTYPES, **DISSL)


@jax.jit
def swav(z):
  return losses.swav(two(z), PROTOTYPES, **SWAV)


@jax.jit
def dino(z):
  center = jnp.zeros(N.k)
  return losses.dino(two(z), two(z), PROTOTYPES, PROTOTYPES, center, **DINO)


@jax.jit
def ibot(z):
  z, center = two(z).swapaxes(0, 1), jnp.zeros(N.k)
  hidden = jnp.ones(z.shape[:2], bool)
  return losses.ibot(
    z, z, PROTOTYPES, PROTOTYPES, center, hidden=hidden, **DINO
  )


@jax.jit
def gram(z):
  return losses.gram_loss(z[None], z[None])


@jax.jit
def barlow(z):
  return losses.barlow_twins(z, z, off_diagonal_weight=5e-3)


@jax.jit
def whitened(z):
  return losses.w_mse(z, z, eps=1e-3)


@jax.jit
def sigmoid(z):
  return losses.sigmoid_contrastive(z, z, scale=N.s, bias=N.c)


def with_queue(queue):
  return losses.info_nce(APART, APART, temperature=N.T, negatives=queue)


def tempered(loss):
  return jax.jit(lambda z: loss(z, z, temperature=N.T))


def alike(loss, times=2):
  return jax.jit(lambda z: loss(*(z,) * times))


def both(loss, apart=APART, equal=EQUAL):
  """The values at collapse and where the loss should go."""
  return lambda: (loss(equal), loss(apart))


# By the first cell of a row.
VALUES = {
  "`nt_xent`": both(tempered(losses.nt_xent)),
  "`dcl`": both(tempered(losses.dcl)),
  "`info_nce`": both(tempered(losses.info_nce)),
  "`info_nce`, `negatives`": lambda: (
    losses.info_nce(EQUAL, EQUAL, temperature=N.T, negatives=EQUAL[: N.q]),
    with_queue(EYE[N.b : N.b + N.q]),
  ),
  "`cissl`": both(cissl),
  "`supervised_contrastive`": both(
    supervised,
    jnp.repeat(EYE[: N.n // N.m], N.m, axis=0),
    jnp.broadcast_to(EYE[:1], (N.n, N.d)),
  ),
  "`sigmoid_contrastive`": both(sigmoid),
  # As many rows of each direction, and of length sqrt(d): 1/n sum z z^T = I.
  "`spectral_contrastive`": both(
    spectral, jnp.tile(jnp.sqrt(N.d) * EYE, (400, 1))
  ),
  "`negative_cosine`": both(alike(losses.negative_cosine)),
  "`simsiam`": both(alike(losses.simsiam, 4)),
  "`byol`": both(alike(losses.byol, 4)),
  "`alignment`": both(alike(losses.alignment)),
  "`barlow_twins`": both(barlow, white(32, N.d)),
  "`barlow_terms`": both(alike(losses.barlow_terms), white(32, N.d)),
  "`vicreg`": both(
    jax.jit(lambda z: losses.vicreg(z, z, **VICREG)), 1.1 * white(32, N.d)
  ),
  "`vicreg_terms`": both(alike(losses.vicreg_terms), 1.1 * white(32, N.d)),
  "`w_mse`": both(whitened, white(32, N.d)),
  "`uniformity`": both(jax.jit(losses.uniformity)),
  "`koleo`": both(jax.jit(losses.koleo)),
  "`sigreg`": lambda: (
    losses.sigreg(jnp.zeros((N.n, N.d)), key=jax.random.key(0), num_slices=4),
    gaussian(40),
  ),
  "`dino`": both(dino),
  "`ibot`": both(ibot),
  "`gram_loss`": both(gram),
  "`swav`": lambda: (
    swav(0 * EQUAL),
    swav(APART),
  ),
  "`dissl`": both(dissl),
  "`dissl_terms`": both(dissl_terms),
}
# Of those whose value isn't exact.
ROUNDED = {"`spectral_contrastive`": 3e-3, "`sigreg`": 0.1, "`koleo`": 1e-3}


def rows_of(heading, page="losses.md"):
  """Returns the cells of the table whose first column is so called."""
  table = TEXTS[page].split(f"| {heading} |", 1)[1].split("\n\n")[0]
  lines = table.splitlines()[2:]
  return [[cell.strip() for cell in ln.strip("|").split("|")] for ln in lines]


TABLE = rows_of("Loss | All rows equal")


def evaluated(cell, constants=CONSTANTS):
  expression = re.match(r"`(.*?)`", cell)[1]
  functions = {
    "log": np.log,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "sp": lambda x: np.logaddexp(0, x),
    "min": min,
  }
  return eval(expression, {"__builtins__": {}}, {**functions, **constants})


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0].strip("`"))
def test_a_loss_has_the_values_of_the_table(row):
  name, *expected = row
  for got, cell in zip(VALUES[name](), expected, strict=True):
    value = evaluated(cell)
    assert np.shape(got) == np.shape(value)
    close(got, value, rtol=ROUNDED.get(name, 1e-5))


def test_both_tables_have_all_losses():
  assert [row[0] for row in TABLE] == list(VALUES)
  scalars = set(FUNCTIONS) - {"sinkhorn", "sinkhorn_center", "dino_center"}
  named = {re.findall(r"`(\w+)`", row[0])[0] for row in TABLE}
  assert named == scalars
  conventions = {
    name
    for row in rows_of("Loss | Rows")
    for name in re.findall(r"`(\w+)`", row[0])
  }
  assert conventions == {s for s in scalars if not s.endswith("_terms")}


def test_the_notes_of_the_table():
  zero = 0 * APART
  close(
    losses.sigmoid_contrastive(zero, zero, scale=N.s, bias=0.0),
    N.b * np.log(2),
  )
  close(spectral(zero), 0)
  # A simplex is below orthogonal negatives.
  simplex = APART - jnp.mean(APART, axis=0, keepdims=True)
  least = np.log(1 + (2 * N.b - 2) * np.exp(-N.b / (N.b - 1) / N.T))
  close(tempered(losses.nt_xent)(simplex), least)
  assert least < tempered(losses.nt_xent)(APART)
  close(dino(zero), np.log(N.k))
  uniform = 1 + WEIGHTS["invariance_weight"] - WEIGHTS["marginal_weight"]
  close(dissl(zero), uniform * np.log(N.k))
  assert swav(EQUAL) > np.log(N.k)
  q = losses.sinkhorn(jnp.ones((N.b, N.k)), epsilon=0.05, iterations=3)
  close(q, np.full((N.b, N.k), 1 / N.k))
  away = losses.sigreg(
    jnp.ones((N.n, N.d)), key=jax.random.key(0), num_slices=4
  )
  assert away > 0.402 * N.n


# The same of diagnostics. There are as many dimensions as images.

MEASURED = {"n": 8, "v": 4, "d": 8, "k": 4, "t": 2.0}
IMAGES = np.eye(8, dtype=np.float32)
LABELS = np.arange(8) % 4
SIMPLEX = (np.eye(4, 8) - np.eye(4, 8).mean(0)).astype(np.float32)[LABELS]
ISOTROPIC = np.concatenate([IMAGES, -IMAGES])
POINT = IMAGES[:1].repeat(8, 0)


def of_views(images):
  """Views that differ by little, but for the images of one point."""
  views = np.repeat(images[:, None], MEASURED["v"], axis=1)
  noise = np.random.default_rng(0).normal(size=views.shape)
  return views + np.float32(1e-5 * np.ptp(images, axis=0).max()) * noise.astype(
    np.float32
  )


def pair(images):
  return of_views(images)[:, :2]


def of_centres(measure):
  return lambda h: measure(diagnostics.class_means(h, LABELS, 4))


def nearest_mean_error(h):
  means = diagnostics.class_means(h, LABELS, 4)
  return diagnostics.nearest_mean_error(h, LABELS, means)


def predictability(images):
  views = of_views(images)
  return diagnostics.linear_predictability(views[:, :2], views[:, 2:])


def lipschitz(h):
  same = of_views(h)[:, :1].repeat(MEASURED["v"], 1)
  return diagnostics.lipschitz_at_least(of_views(IMAGES), same)


def of_step(h):
  measures = jax.jit(diagnostics.batch_measures)(jnp.stack([h, h]))
  return tuple(measures[name] for name in NAMES)


def of_spectrum(measure, centre=True):
  # Each row twice: a spectrum needs more rows than columns.
  return lambda h: measure(
    diagnostics.singular_values(np.concatenate([h, h]), centre=centre)
  )


# What measures it, of collapsed features and of good ones.
MEASURES = {
  "`collapse_auc`": (of_spectrum(diagnostics.collapse_auc), ISOTROPIC),
  "`rank_me`": (of_spectrum(diagnostics.rank_me, centre=False), ISOTROPIC),
  "`stable_rank`": (of_spectrum(diagnostics.stable_rank), ISOTROPIC),
  "`alignment`": (lambda h: diagnostics.alignment(pair(h)), IMAGES),
  "`uniformity`": (diagnostics.uniformity, IMAGES),
  "`lidar`": (lambda h: diagnostics.lidar(of_views(h)), IMAGES),
  "`centre_divergence`": (of_centres(diagnostics.centre_divergence), SIMPLEX),
  "`centre_shrinkage`": (of_centres(diagnostics.centre_shrinkage), SIMPLEX),
  "`nearest_mean_error`": (nearest_mean_error, SIMPLEX),
  "`simplex_distance`": (diagnostics.simplex_distance, IMAGES),
  "`conditional_entropy`": (
    lambda h: diagnostics.conditional_entropy(of_views(h)),
    IMAGES,
  ),
  "`linear_predictability`": (predictability, IMAGES),
  "`assignment_entropies`": (
    lambda p: diagnostics.assignment_entropies(np.stack([p, p], axis=1)),
    np.eye(4, dtype=np.float32)[LABELS],
  ),
  "`divergence_curve`, any eps": (
    lambda h: diagnostics.divergence_curve(pair(h), [0.1])[0],
    IMAGES,
  ),
  "`lipschitz_at_least`": (lipschitz, IMAGES),
  "`info_nce_split`": (lambda h: diagnostics.info_nce_split(pair(h)), IMAGES),
  "`barlow_split`": (lambda h: diagnostics.barlow_split(pair(h)), ISOTROPIC),
  "`batch_measures`": (of_step, ISOTROPIC),
}


@pytest.mark.parametrize(
  "row",
  rows_of("Measure | All rows equal", "diagnostics.md"),
  ids=lambda row: row[0].strip("`"),
)
def test_a_measure_has_the_values_of_the_table(row):
  name, *expected = row
  measure, good = MEASURES[name]
  for h, cell in zip((POINT, good), expected, strict=True):
    if cell == "raises":
      with pytest.raises(ValueError, match="all singular values are 0"):
        measure(h)
    else:
      close(measure(h), evaluated(cell, MEASURED), rtol=1e-4)


def test_the_table_has_all_measures():
  rows = rows_of("Measure | All rows equal", "diagnostics.md")
  assert [row[0] for row in rows] == list(MEASURES)


# optax.

ntxent = jax.jit(optax.losses.ntxent)


def normal(*shape, seed=0):
  return jnp.asarray(
    np.random.default_rng(seed).normal(size=shape), jnp.float32
  )


X, Y, P, Q = normal(4, 6, 5)


def unit(z):
  return z / jnp.linalg.norm(z, axis=-1, keepdims=True)


def test_ntxent_is_nt_xent_for_two_views():
  labels = jnp.tile(jnp.arange(len(X)), 2)
  theirs = ntxent(jnp.concatenate([X, Y]), labels, N.T)
  close(losses.nt_xent(X, Y, temperature=N.T), theirs)


def test_ntxent_of_labels_is_over_pairs_each_with_its_own_denominator():
  z, labels = jnp.concatenate([X, Y]), jnp.array([0, 0, 0, 1, 1, 2] * 2)
  similarity = np.exp(np.asarray(unit(z) @ unit(z).T, np.float64) / N.T)
  terms = []
  for i, mine in enumerate(labels):
    negatives = similarity[i][labels != mine].sum()
    terms += [
      -np.log(similarity[i, j] / (similarity[i, j] + negatives))
      for j in range(len(z))
      if labels[j] == mine and j != i
    ]
  theirs = ntxent(z, labels, N.T)
  close(theirs, np.mean(terms))
  ours = losses.supervised_contrastive(z, labels, temperature=N.T)
  assert abs(ours - theirs) > 0.1


def test_without_positives_ntxent_is_nan_and_ours_is_0():
  labels = jnp.arange(len(X))
  assert np.isnan(ntxent(X, labels, N.T))
  assert losses.supervised_contrastive(X, labels, temperature=N.T) == 0


def test_cosines():
  def distance(x, y):
    return optax.losses.cosine_distance(x, y).mean()

  similarity = optax.losses.cosine_similarity
  close(losses.negative_cosine(X, Y), -similarity(X, Y).mean())
  close(losses.byol(X, Y, P, Q), 2 * distance(X, Q) + 2 * distance(Y, P))
  close(losses.simsiam(X, Y, P, Q), (distance(X, Q) + distance(Y, P)) / 2 - 1)
  zero = 0 * X
  assert np.isnan(similarity(zero, Y)).all()
  assert losses.negative_cosine(zero, Y) == 0


def test_squared_errors():
  squares = optax.losses.squared_error(X, Y)
  close(losses.alignment(X, Y), squares.sum(axis=1).mean())
  close(losses.vicreg_terms(X, Y).invariance, squares.mean())


def test_softmax_cross_entropies_of_similarities():
  cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
  logits = unit(X) @ unit(Y).T / N.T
  own = jnp.arange(len(X))
  close(
    losses.info_nce(X, Y, temperature=N.T), cross_entropy(logits, own).mean()
  )
  close(
    losses.info_nce(X, Y, temperature=N.T, symmetric=True),
    (cross_entropy(logits, own) + cross_entropy(logits.T, own)).mean() / 2,
  )
  positive = jnp.diag(logits)[:, None]
  logits = jnp.concatenate([positive, unit(X) @ unit(P).T / N.T], axis=1)
  close(
    losses.info_nce(X, Y, temperature=N.T, negatives=P),
    cross_entropy(logits, 0 * own).mean(),
  )
  student, teacher = jnp.concatenate([X, Y]), jnp.concatenate([P, Q])
  close(
    losses.cissl(student, teacher, temperature=N.T),
    optax.losses.softmax_cross_entropy(
      unit(student) @ unit(teacher).T / N.T,
      jnp.tile(jnp.eye(len(X)), (2, 2)) / 2,
    ).mean(),
  )


def test_sigmoid_cross_entropy_summed_over_keys():
  theirs = optax.losses.sigmoid_binary_cross_entropy(
    2.0 * X @ Y.T - 1.0, jnp.eye(len(X))
  )
  close(
    losses.sigmoid_contrastive(X, Y, scale=2.0, bias=-1.0),
    theirs.sum(axis=1).mean(),
  )


@jax.jit
def of_prototypes():
  """Pairs of our values and those of optax."""
  cross_entropy = optax.losses.softmax_cross_entropy
  student, teacher = jnp.stack([X, Y, P]), jnp.stack([Q, P])
  w, v, center = normal(7, 5), normal(7, 5, seed=1), normal(7, seed=2)
  pairs = [(0, 1), (0, 2), (1, 0), (1, 2)]
  s, t = student @ w.T, teacher @ v.T
  dino = losses.dino(
    student,
    teacher,
    w,
    v,
    center,
    student_temperature=0.5,
    teacher_temperature=0.3,
  )
  swav = losses.swav(
    student, w, temperature=0.5, epsilon=0.4, iterations=3, num_large=2
  )
  target = jax.nn.softmax((t - center[None, None]) / 0.3)
  assigned = [
    losses.sinkhorn(s[a], epsilon=0.4, iterations=3) for a in range(2)
  ]

  def mean(of):
    return sum(cross_entropy(s[c] / 0.5, of[a]).mean() for a, c in pairs) / 4

  return (
    (dino, mean(target)),
    (swav, mean(assigned)),
    (losses.dino_center(teacher, v), t.mean(axis=(0, 1))),
  )


def test_softmax_cross_entropies_of_prototypes():
  for ours, theirs in of_prototypes():
    close(ours, theirs)


# Limits.


def test_forward_mode_is_that_of_the_reference():
  def loss(x, implementation=None):
    return losses.nt_xent(x, Y, temperature=N.T, implementation=implementation)

  gradient = jax.grad(loss)
  with pytest.raises(TypeError, match="forward-mode"):
    jax.jvp(gradient, (X,), (P,))
  # Along P: reverse over reverse, and forward over reverse.
  twice = jax.jit(jax.grad(lambda x: jnp.vdot(gradient(x), P)))
  by_reference = jax.grad(lambda x: loss(x, "reference"))
  forward = jax.jit(lambda x: jax.jvp(by_reference, (x,), (P,))[1])
  close(twice(X), forward(X), atol=1e-4)


@pytest.mark.parametrize(
  "loss",
  [
    lambda **options: losses.spectral_contrastive(X, Y, **options),
    lambda **options: losses.barlow_terms(X, Y, **options),
    lambda **options: losses.vicreg_terms(X, Y, **options),
    lambda **options: losses.koleo(X, **options),
    lambda **options: losses.sigreg(
      X, key=jax.random.key(0), num_slices=4, **options
    ),
    lambda **options: losses.sigmoid_contrastive(
      X, Y, scale=1.0, bias=0.0, **options
    ),
  ],
  ids=["spectral", "barlow", "vicreg", "koleo", "sigreg", "sigmoid"],
)
def test_there_is_no_kernel(loss):
  with pytest.raises(ValueError, match="cannot run"):
    loss(implementation="pallas_tpu")

"""`jssl neighbours --embeddings=FILE --query=NAME --k=10`.

Prints the nearest images of each query in a file of `jssl embed`. The search is
exact, see `jssl.diagnostics.nearest_neighbours`.
"""

from absl import app, flags

_EMBEDDINGS = flags.DEFINE_string(
  "embeddings", None, "File of `jssl embed`.", required=True
)
_QUERY = flags.DEFINE_list(
  "query",
  None,
  "Names or indices of images, separated by commas.",
  required=True,
)
_K = flags.DEFINE_integer("k", 10, "Number of neighbours.", lower_bound=1)
_SIMILARITY = flags.DEFINE_enum(
  "similarity", "cosine", ["cosine", "dot"], "Similarity of features."
)


def main(argv: list[str]) -> int:
  """Prints the table; returns the exit status."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  # Imported late, so that --help is fast.
  import tabulate

  from jssl.embed.search import table
  from jssl.embed.store import read
  from jssl.runtime import compilation, exit_codes, files, terminal
  from jssl.runtime.paths import as_path

  terminal.make_output_safe()
  compilation.use_cache()

  def work() -> None:
    files.check_expanded("--embeddings", _EMBEDDINGS.value)
    rows = table(
      read(as_path(_EMBEDDINGS.value)),
      _QUERY.value,
      k=_K.value,
      similarity=_SIMILARITY.value,  # type: ignore[arg-type]
    )
    print(tabulate.tabulate(rows, headers="keys", floatfmt=".4f"))

  return exit_codes.run_with_exit_code(work, (ValueError, OSError))


if __name__ == "__main__":
  app.run(main)

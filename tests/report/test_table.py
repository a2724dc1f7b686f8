from jssl.report import table
from jssl.report.read import read


def means(row):
  return [score and score.test_accuracy for score in row.scores]


def test_rows_and_columns(workdir):
  pixels, random, pretrained = table.rows(read(workdir), "cluttered_digits")
  assert pixels.name == "raw pixels"
  assert random.name == "random backbone"
  assert pretrained.name == "pretrained, step 20"
  # As the fixture made them: the order of kinds there has 10 % before 1 %.
  for row, start in ((pixels, 0), (random, 10), (pretrained, 20)):
    expected = [start + i + 0.25 for i in (0, 1, 2, 4, 3)]
    assert [round(100 * mean, 9) for mean in means(row)] == expected


def test_what_was_not_probed_has_no_score(workdir):
  lines = (workdir / "probe.jsonl").read_text().splitlines()
  kept = [
    line for line in lines if '"knn"' not in line and '"random"' not in line
  ]
  (workdir / "probe.jsonl").write_text("\n".join(kept) + "\n")
  pixels, random, _ = table.rows(read(workdir), "cluttered_digits")
  assert means(random) == [None] * 5
  assert [mean is None for mean in means(pixels)] == [0, 0, 1, 0, 0]


def test_as_text_lines_up(workdir):
  text = table.as_text(table.rows(read(workdir), "cluttered_digits"))
  head, pixels, _, pretrained = text.splitlines()
  assert len({len(line) for line in text.splitlines()}) == 1
  for heading in table.HEADINGS:
    assert heading in head
  assert " ".join(pixels.split()) == (
    "raw pixels 0.2 ± 1.2 1.2 ± 1.2 2.2 ± 1.2 4.2 ± 1.2 3.2 ± 1.2"
  )
  assert pretrained.endswith("23.2 ± 1.2")


def test_as_text_of_missing_scores():
  text = table.as_text([table.Row("raw pixels", (None,) * 5)])
  assert text.splitlines()[1].split() == ["raw", "pixels", *"-----"]

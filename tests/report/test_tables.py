from jssl.report.tables import markdown_table


def test_cells_are_text():
  table = markdown_table(
    ["", "a <= b"], [["a | b", "<class 'int'>"], ["two\nlines", "$x$ < 3"]]
  )
  assert table.splitlines()[0] == "|           |         a <= b |"
  assert table.splitlines()[2:] == [
    "| a \\| b    | \\<class 'int'> |",
    "| two lines |        $x$ < 3 |",
  ]

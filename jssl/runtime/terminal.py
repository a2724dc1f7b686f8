"""Output to terminals and pipes that do not take every character."""

import codecs
import io
import sys


def accept_any_text() -> None:
  r"""Lets `print` replace what the encoding of stdout or stderr lacks.

  Accuracies keep their meaning (± becomes +-), other characters become escapes,
  such as `\xe9`. Without it a finished program would fail at its last table.
  """
  codecs.register_error("jssl.escape", _escape)
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="jssl.escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
  if not isinstance(error, UnicodeEncodeError):
    raise error
  text = error.object[error.start : error.end].replace("±", "+-")
  return text.encode("ascii", "backslashreplace").decode(), error.end

"""Output to terminals and pipes that close or do not take every character."""

import codecs
import errno
import io
import os
import sys
from typing import Any


class _Output(io.FileIO):
  """Output that is discarded once its pipe or terminal is closed."""

  def write(self, data: Any, /) -> int:
    try:
      return super().write(data)
    except OSError as error:
      if error.errno not in (errno.EPIPE, errno.EIO):
        raise
    os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
    if self.fileno() == 1:
      print(
        "The reader of stdout is gone; continuing without output.",
        file=sys.stderr,
      )
    return super().write(data)


def make_output_safe() -> None:
  r"""Lets a program finish, whatever happens to stdout and stderr.

  After `| head` or the end of a session it continues without output. Characters
  that the encoding lacks are replaced: ± by +-, others by escapes like `\xe9`.
  """
  codecs.register_error("jssl.escape", _escape)
  for name in ("stdout", "stderr"):
    stream = getattr(sys, name)
    if not isinstance(stream, io.TextIOWrapper):
      continue
    if stream is getattr(sys, f"__{name}__"):
      raw = _Output(stream.fileno(), "w", closefd=False)
      stream.flush()
      stream = io.TextIOWrapper(
        # Unbuffered by `python -u`.
        raw if stream.write_through else io.BufferedWriter(raw),
        stream.encoding,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
      )
      setattr(sys, name, stream)
    stream.reconfigure(errors="jssl.escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
  if not isinstance(error, UnicodeEncodeError):
    raise error
  text = error.object[error.start : error.end].replace("±", "+-")
  return text.encode("ascii", "backslashreplace").decode(), error.end

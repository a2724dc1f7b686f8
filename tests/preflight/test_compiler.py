"""Compiling in a process of its own."""

import operator
import os

import pytest

from jssl.preflight import text_report
from jssl.preflight.compiler import in_own_process
from jssl.preflight.targets import target


def test_a_crash_is_one_line():
  with pytest.raises(RuntimeError) as error:
    in_own_process(target("v6e:8x8"), "the train step", os.abort)
  message = str(error.value)
  assert message.startswith("target=v6e:8x8: the compiler (")
  assert "ended with SIGABRT while it compiled the train step" in message
  assert "\n" not in message


def test_results_and_errors_come_back():
  cpu = target("cpu:3")
  assert in_own_process(cpu, "a sum", operator.add, 2, 3) == 5
  with pytest.raises(ValueError, match="invalid literal"):
    in_own_process(cpu, "a number", int, "x")


def test_units_fit():
  sizes = [None, 0, 700, 3 * 2**20, 3 * 2**30]
  assert [*map(text_report.gib, sizes)] == [
    *("-", "0", "0.7 KiB", "3.0 MiB", "3.00 GiB")
  ]

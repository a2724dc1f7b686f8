"""The lock of a workdir, and files in it that are damaged."""

import contextlib
import errno
import json
import os
import pathlib
import socket
import threading

import pytest

from jssl.runtime import workdir as workdir_lib
from jssl.runtime.goodput import Clock
from jssl.runtime.workdir import check_workdir, load_config, lock_workdir
from jssl.train.writer import Writer

CONFIG = {"train": {"steps": 3}}


def test_a_second_run_is_refused(tmp_path):
  expected = rf"in use by process {os.getpid()} on {socket.gethostname()}"
  with lock_workdir(CONFIG, tmp_path):
    with (
      pytest.raises(ValueError, match=expected),
      lock_workdir({"train": {"steps": 4}}, tmp_path),
    ):
      pass
    assert load_config(tmp_path) == CONFIG
  with lock_workdir(CONFIG, tmp_path):
    pass


def test_a_claim_without_a_step_is_given_back(tmp_path):
  other = {"train": {"steps": 4}}

  def fail(config, *, after_a_step):
    with (
      contextlib.suppress(KeyError),
      lock_workdir(config, tmp_path) as keep_claim,
    ):
      if after_a_step:
        keep_claim()
      raise KeyError

  fail(CONFIG, after_a_step=False)
  fail(other, after_a_step=True)
  fail(other, after_a_step=False)
  assert load_config(tmp_path) == other


def no_locks(*_):
  raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("other", ['{"host": "elsewhere", "pid": 7}', "{{"])
def test_two_hosts_lock_a_file_system_without_locks(
  tmp_path, monkeypatch, other
):
  """Both read the file before either wrote it; the last one has the lock."""
  monkeypatch.setattr(workdir_lib.fcntl, "flock", no_locks)
  monkeypatch.setattr(workdir_lib, "_SETTLE_SECONDS", 0.5)
  path = tmp_path / "lock"
  timer = threading.Timer(0.2, path.write_text, [other])
  timer.start()
  expected = "in use by (process 7 on elsewhere|a process that has just)"
  with (
    pytest.raises(ValueError, match=expected),
    lock_workdir(CONFIG, tmp_path),
  ):
    pass
  timer.join()
  assert path.read_text() == other
  path.unlink()
  with lock_workdir(CONFIG, tmp_path):
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_lock_before_its_holder_is_written(tmp_path):
  with lock_workdir(CONFIG, tmp_path):
    (tmp_path / "lock").write_text("")
    with pytest.raises(ValueError, match="by a process that has just started"):
      lock_workdir(CONFIG, tmp_path).__enter__()


def test_the_lock_of_a_process_that_was_killed_is_stale(tmp_path):
  holder = {"host": socket.gethostname(), "pid": 1, "started": "yesterday"}
  (tmp_path / "lock").write_text(json.dumps(holder))
  with lock_workdir(CONFIG, tmp_path):
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
  assert (tmp_path / "lock").read_text() == ""


@pytest.mark.parametrize("is_alive", [True, False])
def test_another_host_shows_that_it_is_alive(tmp_path, monkeypatch, is_alive):
  """Its lock is not seen by this kernel, as on a network file system."""
  monkeypatch.setattr(workdir_lib, "_STALE_SECONDS", 1.0)
  path = tmp_path / "lock"
  path.write_text('{"host": "elsewhere", "pid": 7, "started": "today"}')
  timer = threading.Timer(0.3, os.utime, [path])
  if is_alive:
    timer.start()
    with (
      pytest.raises(ValueError, match="process 7 on elsewhere, started today"),
      lock_workdir(CONFIG, tmp_path),
    ):
      pass
    timer.join()
    assert not (tmp_path / "config.json").exists()
  else:
    with lock_workdir(CONFIG, tmp_path):
      assert socket.gethostname() in path.read_text()


def test_a_lock_is_renewed_while_it_is_held(tmp_path, monkeypatch):
  monkeypatch.setattr(workdir_lib, "_STALE_SECONDS", 0.2)
  with lock_workdir(CONFIG, tmp_path):
    before = (tmp_path / "lock").stat().st_mtime_ns
    threading.Event().wait(0.5)
    assert (tmp_path / "lock").stat().st_mtime_ns > before


@pytest.mark.parametrize("name", ["", "~/x", "~", pathlib.Path("~/x")])
def test_a_workdir_that_a_shell_did_not_expand(name):
  with pytest.raises(ValueError, match=r"--workdir=.*\$HOME/runs/simclr"):
    check_workdir(name)


def test_a_workdir_that_is_not_utf8(tmp_path):
  name = tmp_path / os.fsdecode(b"caf\xe9")
  with pytest.raises(
    ValueError, match=r"caf\\udce9': expected a name in UTF-8"
  ):
    check_workdir(name)


DAMAGED = [b"", b"{", b"[1]", b"\xff\xfe\x00", b"3"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_config_is_named(tmp_path, content):
  path = tmp_path / "config.json"
  path.write_bytes(content)
  for use in (load_config, lambda folder: lock_workdir(CONFIG, folder)):
    with pytest.raises(ValueError, match=rf"{path} is damaged"):
      use(tmp_path).__enter__()


def test_damaged_rows_of_logs_are_skipped_and_counted(tmp_path, caplog):
  rows = [b'{"step": 1}', b'{"st', b"[2]", b'{"step": "2"}', b'{"a": 1}']
  content = b"\n".join([*rows, b"\xff\xfe", b'{"step": 2}', b""])
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(content)
  with Writer(
    tmp_path, total_steps=9, batch_size=8, seconds_at_peak=0.0
  ) as writer:
    writer.start(2)
  assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
  assert f"Skipped 5 damaged rows of {path}" in caplog.text
  path.write_bytes(content)
  clock = Clock(path, ["step"])
  clock.write()
  assert "Skipped 3 damaged rows" in caplog.text
  assert len(path.read_text().splitlines()) == 5

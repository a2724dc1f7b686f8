"""A bucket on this machine: the emulator of Google Cloud Storage of PyPI."""

import contextlib
import os
from unittest import mock

import fsspec
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from processes import free_port

_download = objects.download


def _with_generation(request, response, storage, *args, **kwargs):
  """TensorStore needs the generation of what it reads, to replace it."""
  _download(request, response, storage, *args, **kwargs)
  with contextlib.suppress(NotFound):
    names = request.params["bucket_name"], request.params["object_id"]
    found = storage.get_file_obj(*names)
    for name in ("generation", "metageneration"):
      response[f"x-goog-{name}"] = found[name]


# Before the server makes its table of handlers.
objects.download = _with_generation

from gcp_storage_emulator.server import create_server  # noqa: E402


@contextlib.contextmanager
def bucket():
  """Yields the environment in which gs://bucket is that of an emulator."""
  port = free_port()
  server = create_server(
    "127.0.0.1", port, in_memory=True, default_bucket="bucket"
  )
  address = f"http://127.0.0.1:{port}"
  environ = {
    # gcsfs, TensorStore and ArrayRecord.
    "STORAGE_EMULATOR_HOST": address,
    "TENSORSTORE_GCS_HTTP_URL": address,
    "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    "FSSPEC_GS_TOKEN": "anon",
  }
  settings = {"gs": {"token": "anon"}}
  with (
    server,
    mock.patch.dict(os.environ, environ),
    mock.patch.dict(fsspec.config.conf, settings),
  ):
    yield environ
  fsspec.get_filesystem_class("gs").clear_instance_cache()

"""Reads and writes backbones: of runs, and published weights.

`load_backbone` reads a run; `load` reads published weights in the layouts of
timm, torchvision, Hugging Face and the official repositories (`LAYOUTS`).
"""

from jssl.weights.adapt import load_for
from jssl.weights.heads import load_heads
from jssl.weights.layouts import LAYOUTS
from jssl.weights.load import Published, Report, load, place_like
from jssl.weights.save import save, to_tensors
from jssl.weights.workdir import Encoder, load_backbone

__all__ = [
  "LAYOUTS",
  "Encoder",
  "Published",
  "Report",
  "load",
  "load_backbone",
  "load_for",
  "load_heads",
  "place_like",
  "save",
  "to_tensors",
]

"""Backbones for use in other programs: of runs, and published weights.

`load_backbone` reads a run; `load` reads published weights in the layouts of
timm, torchvision, Hugging Face and the official repositories (`LAYOUTS`).
"""

from jssl.weights.layouts import LAYOUTS
from jssl.weights.load import Report, load, load_with_report
from jssl.weights.save import save
from jssl.weights.workdir import Encoder, load_backbone

__all__ = [
  "LAYOUTS",
  "Encoder",
  "Report",
  "load",
  "load_backbone",
  "load_with_report",
  "save",
]

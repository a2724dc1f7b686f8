"""Methods of training: each maps backbone features to a scalar loss.

An objective owns its projectors, predictors, prototypes, queues and centres.
`OBJECTIVES` maps the `objective.name` of a config to its class.
"""

from jssl.objectives.barlow_twins import BarlowTwins
from jssl.objectives.base import Aux, Features, Objective
from jssl.objectives.byol import BYOL
from jssl.objectives.cissl import CISSL
from jssl.objectives.dcl import DCL
from jssl.objectives.dino import DINO
from jssl.objectives.dinov2 import DINOv2
from jssl.objectives.dissl import DISSL
from jssl.objectives.ibot import IBOT
from jssl.objectives.ijepa import IJEPA
from jssl.objectives.lejepa import LeJEPA
from jssl.objectives.mae import MAE
from jssl.objectives.moco_v3 import MoCoV3
from jssl.objectives.momentum import MomentumObjective, TeacherObjective
from jssl.objectives.nnclr import NNCLR
from jssl.objectives.projector import (
  DistillationObjective,
  PredictorObjective,
  ProjectorObjective,
  PrototypeObjective,
  TwoViewObjective,
)
from jssl.objectives.simclr import SimCLR
from jssl.objectives.simmim import SimMIM
from jssl.objectives.simsiam import SimSiam
from jssl.objectives.spectral import Spectral
from jssl.objectives.supcon import SupCon
from jssl.objectives.supervised import Supervised
from jssl.objectives.swav import SwAV
from jssl.objectives.vicreg import VICReg
from jssl.objectives.w_mse import WMSE

OBJECTIVES: dict[str, type[Objective]] = {
  "barlow_twins": BarlowTwins,
  "byol": BYOL,
  "cissl": CISSL,
  "dcl": DCL,
  "dino": DINO,
  "dinov2": DINOv2,
  "dissl": DISSL,
  "ibot": IBOT,
  "ijepa": IJEPA,
  "lejepa": LeJEPA,
  "mae": MAE,
  "moco_v3": MoCoV3,
  "nnclr": NNCLR,
  "simclr": SimCLR,
  "simmim": SimMIM,
  "simsiam": SimSiam,
  "spectral": Spectral,
  "supcon": SupCon,
  "supervised": Supervised,
  "swav": SwAV,
  "vicreg": VICReg,
  "w_mse": WMSE,
}

__all__ = [
  "BYOL",
  "CISSL",
  "DCL",
  "DINO",
  "DISSL",
  "IBOT",
  "IJEPA",
  "MAE",
  "NNCLR",
  "OBJECTIVES",
  "WMSE",
  "Aux",
  "BarlowTwins",
  "DINOv2",
  "DistillationObjective",
  "Features",
  "LeJEPA",
  "MoCoV3",
  "MomentumObjective",
  "Objective",
  "PredictorObjective",
  "ProjectorObjective",
  "PrototypeObjective",
  "SimCLR",
  "SimMIM",
  "SimSiam",
  "Spectral",
  "SupCon",
  "Supervised",
  "SwAV",
  "TeacherObjective",
  "TwoViewObjective",
  "VICReg",
]

"""Model cards: what a run's config and probe say about its backbone."""

import os
import pathlib

import jssl
from jssl.augment.crop import CENTER_SHARE
from jssl.config.parse import to_dict
from jssl.config.schema import Config
from jssl.models import ResNet, ViT
from jssl.probe.accuracy import accuracy_table
from jssl.probe.record_file import RecordFile
from jssl.probe.records import ProbeRecord
from jssl.report.tables import markdown_table
from jssl.weights.folder import model_section

_LIBRARIES = {
  "timm": "timm",
  "hf": "transformers",
  "torchvision": "torchvision",
  "stablehlo": "jax",
}

_CARD = """\
---
library_name: {library}
pipeline_tag: image-feature-extraction
tags:
- image-feature-extraction
- self-supervised-learning
- jssl
- {method}
---

# {method}, {dataset}

- Method: {method}
- Data set: {dataset}, split `{split}`
- Steps: {step:,} of {steps:,}, {batch_size:,} images each
- Initial weights: {initial}
- Backbone: {kind}, `{model}`
- Images: {size} x {size} px, {channels} channel(s)
- Written by: jssl {version}
{accuracies}
## Preprocessing

Resize the short side to at least {size} px and at most {short} px, and crop the
centre square of {size} px. Divide pixels of uint8 by 255 and of uint16 by
65,535, subtract {mean} and divide by {std}.

## Use with {library}

```python
{usage}
```

{images}
"""

_OTHERS = """\
`images` are preprocessed, [n, {channels}, {size}, {size}].

## Use with jssl

```python
import jssl

apply, variables = jssl.load_backbone("{folder}")
features = apply(variables, apply.preprocess(pixels))  # uint8 [n, h, w, c]
```"""

_PROGRAM = """\
`images` are cropped as above, in [0, 1], float32 [n, {size}, {size},
{channels}] for any n. The program standardises them, and runs on CPUs, NVIDIA
GPUs and TPUs."""

_USAGE = """\
import pathlib
from jax import export

program = pathlib.Path("{folder}/model.stablehlo").read_bytes()
features = export.deserialize(bytearray(program)).call(images)"""


def model_card(
  config: Config,
  *,
  layout: str,
  image_shape: tuple[int, int, int],
  folder: str,
  **facts: object,
) -> str:
  """Returns the text of a model card, with facts of its template.

  Args:
    config: config of the run.
    layout: layout of the folder.
    image_shape: (height, width, channels) of the images.
    folder: name of the folder.
    **facts: `step`, `kind` of the backbone and a section of `accuracies`.
  """
  size, _, channels = image_shape
  model, source = config.model, config.init_from
  fields = model_section(model)
  del fields["name"]
  arguments = ", ".join(f"{key}={value!r}" for key, value in fields.items())
  shape = {"size": size, "channels": channels}
  images = _PROGRAM if layout == "stablehlo" else _OTHERS
  return _CARD.format(
    library=_LIBRARIES[layout],
    method=to_dict(config)["objective"]["name"],
    dataset=config.data.name,
    split=config.data.split,
    steps=config.train.steps,
    batch_size=config.data.batch_size,
    initial=pathlib.Path(source.weights or source.workdir).name or "random",
    model=f"{type(model).__name__}({arguments})",
    short=round(size / CENTER_SHARE),
    images=images.format(folder=folder, **shape),
    mean=list(model.mean),
    std=list(model.std),
    usage=_usage(model, layout, channels, folder),
    **shape,
    version=jssl.__version__,
    **facts,
  )


def _usage(model: ViT | ResNet, layout: str, channels: int, folder: str) -> str:
  """Returns code that computes the feature of the run by another library."""
  if layout == "stablehlo":
    return _USAGE.format(folder=folder)
  if layout == "torchvision" and isinstance(model, ResNet):
    return _torchvision_usage(model, channels, folder)
  if layout == "timm":
    opened = f'timm.create_model("local-dir:{folder}", pretrained=True)'
    tokens, lines = "model.forward_features(images)", ["import timm"]
  else:
    opened = f'AutoModel.from_pretrained("{folder}")'
    tokens = "model(images).last_hidden_state"
    lines = ["from transformers import AutoModel"]
  lines += ["", f"model = {opened}", "model.eval()"]
  if isinstance(model, ResNet) or (
    layout == "timm" and model.pooling != "cls_mean"
  ):
    return "\n".join([*lines, "features = model(images)"])
  mean = f"tokens[:, {model.has_class_token + model.num_registers}:].mean(1)"
  feature = {"mean": mean, "cls": "tokens[:, 0]"}.get(model.pooling)
  if feature is None:
    lines.insert(0, "import torch")
    feature = f"torch.cat([tokens[:, 0], {mean}], 1)"
  return "\n".join([*lines, f"tokens = {tokens}", f"features = {feature}"])


def _torchvision_usage(model: ResNet, channels: int, folder: str) -> str:
  """Returns code for torchvision, with a first layer of this shape."""
  if model.width != 64:
    return (
      f"# torchvision has no ResNet of width {model.width}: only the names and "
      "the order of\n# the axes are its own."
    )
  # Channels, size of the kernel, stride and padding.
  stem = f"{channels}, {model.width}, " + (
    "3, 1, 1" if model.small_images else "7, 2, 3"
  )
  pool = not model.small_images or model.small_max_pool
  return "\n".join(
    [
      "import torch, torchvision",
      "from safetensors.torch import load_file",
      "",
      f"model = torchvision.models.resnet{model.depth}()",
      f"model.conv1 = torch.nn.Conv2d({stem}, bias=False)",
      *([] if pool else ["model.maxpool = torch.nn.Identity()"]),
      "model.fc = torch.nn.Identity()",
      f'model.load_state_dict(load_file("{folder}/model.safetensors"))',
      "model.eval()",
      "features = model(images)",
    ]
  )


def accuracies(workdir: str | os.PathLike, step: int, backbone: str) -> str:
  """Returns a section with tables of the probe; "" without records."""
  records = [
    record
    for record in RecordFile(workdir).read()
    if isinstance(record, ProbeRecord) and record.backbone in ("", backbone)
  ]
  probed = dict.fromkeys(x.dataset for x in records if x.step == step)
  tables = [
    markdown_table(*accuracy_table(records, dataset, step=step))
    for dataset in probed
  ]
  return "\n".join(["", "## Frozen features", "", *tables] if tables else [])

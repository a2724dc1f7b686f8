"""Opens a data set by name."""

from jssl.data.source import Source, load


def open_source(
  name: str,
  *,
  data_dir: str | None = None,
  split: str = "train",
  image_size_px: int,
  in_memory: bool = False,
  skip_damaged: bool = False,
) -> Source:
  """Opens a split of a set: the embedded one, or one that was prepared.

  Args:
    name: `cluttered_digits`, or what `python -m jssl.data.prepare` made: a
      TFDS name, with `/config` and `:version` if wanted, or the name of a
      prepared folder.
    data_dir: where prepared sets are; None or "" is the default of TFDS.
    split: a split, or a part of one, as TFDS writes it: `train[:10%]`. The
      embedded set has `train` and `test`.
    image_size_px: height and width of the images. Where the stored ones
      differ, the shorter side is resized to it and the centre is taken.
    in_memory: read the whole split now, and serve it from memory.
    skip_damaged: take the next image that can be read for one that can't;
      otherwise fetching it raises.

  Raises:
    FileNotFoundError: the set was not prepared.
    ValueError: the split or the image size is not there, or the set has no
      image feature or cannot be read by row.
  """
  if image_size_px < 1:
    raise ValueError(
      f"data.image_size_px={image_size_px}: expected a positive number"
    )
  # Imported on use: the embedded set needs scikit-learn, others TFDS.
  if name == "cluttered_digits":
    from jssl.data import embedded

    if image_size_px != embedded.IMAGE_SIZE_PX:
      raise ValueError(
        f"data.image_size_px={image_size_px}: the images of {name} have "
        f"{embedded.IMAGE_SIZE_PX}"
      )
    return embedded.cluttered_digits(split)
  from jssl.data import array_record

  source = array_record.open_prepared(
    name,
    data_dir=data_dir or None,
    split=split,
    image_size_px=image_size_px,
    skip_damaged=skip_damaged,
  )
  return load(source) if in_memory else source

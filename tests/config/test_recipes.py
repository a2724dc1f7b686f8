import pytest

from jssl.config import recipes
from jssl.config.schema import Checkpoint


@pytest.mark.parametrize("arg", ["", "0", "-3", "1.5", "ten", "²"])
def test_epochs_are_whole_and_positive(arg):
  with pytest.raises(ValueError, match=r"expected a number of epochs"):
    recipes.epochs(arg)


def test_a_variant_may_have_epochs():
  names = ("base", "dim")
  assert recipes.variant("dim", names, 300) == ("dim", 300)
  assert recipes.variant("dim,20", names, 300) == ("dim", 20)
  with pytest.raises(ValueError, match="unknown variant 'dims'; known: base"):
    recipes.variant("dims,20", names, 300)
  with pytest.raises(ValueError, match="expected a number of epochs"):
    recipes.variant("dim,", names, 300)


def test_a_run_on_imagenet():
  """4096 images go 312 times into 1,281,167; what is left is dropped."""
  run = recipes.imagenet(epochs=100, batch_size=4096)
  assert run["train"] == {"steps": 31_200}
  assert run["checkpoint"] == {"every_steps": 1560}


@pytest.mark.parametrize(
  ("every", "keep", "steps", "expected"),
  [
    (10, 10, 100, 10),  # Ten checkpoints, all kept.
    (10, 10, 30, 10),
    (10, 10, 1000, 100),
    (10, 10, 240, 20),  # 24 / 10 rounds to every second.
    (10, 4, 100, 20),
    (10, 0, 100, None),
    (100, 10, 50, 100),  # Only the last step is saved.
  ],
)
def test_checkpoints_are_kept_evenly(every, keep, steps, expected):
  section = Checkpoint(every_steps=every, keep_evenly=keep)
  assert section.keep_every_steps(steps) == expected


def test_the_views_of_papers_differ_where_they_say():
  simclr, moco, byol = (
    recipes.simclr_views(),
    recipes.moco_views(),
    recipes.byol_views(),
  )
  assert [x["saturation"] for x in (simclr, moco, byol)] == [0.8, 0.4, 0.2]
  assert [x["crop_min_area"] for x in (simclr, moco, byol)] == [0.08, 0.2, 0.08]
  assert byol["solarize_probability"] == (0.0, 0.2)
  assert "solarize_probability" not in moco

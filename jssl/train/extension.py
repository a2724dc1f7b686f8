"""Extension of a run: from its first `train.steps` to a larger number."""

from jssl.config.build import build_objective
from jssl.config.schema import Config


def _scheduled(config: Config, step: int) -> dict[str, float]:
  """Returns the values of the schedules that end with the run."""
  steps, optim = config.train.steps, config.optim
  decay = optim.decay(steps)
  momentum = build_objective(config).teacher_momentum(step)
  return {
    "learning rate": float(optim.schedule(steps)(step)),
    "weight decay": float(decay(step) if callable(decay) else decay),
    "momentum of the teacher": 0.0 if momentum is None else float(momentum),
  }


def describe_extension(earlier: Config, config: Config, step: int) -> str:
  """Returns a log line with how an extension changes the next step."""
  before, after = _scheduled(earlier, step), _scheduled(config, step)
  changes = [
    f"the {name} changes from {before[name]:.6g} to {value:.6g}"
    for name, value in after.items()
    if value != before[name]
  ]
  return (
    f"Extended from {earlier.train.steps} to {config.train.steps} steps. At "
    f"step {step}, {', '.join(changes) or 'no schedule changes'}."
  )

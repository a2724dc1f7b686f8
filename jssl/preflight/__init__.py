"""Memory, FLOPs and collectives of a run, without the target hardware."""

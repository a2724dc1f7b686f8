"""What training and probes wrote, as one page that needs nothing else."""

"""Objectives: what a method adds to a backbone. One method, one file."""

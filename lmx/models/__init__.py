"""Models: each file exports Config, build, AXES (path -> axis names) and HF (one table, read both ways)."""

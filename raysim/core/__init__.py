"""Pure tensors: no Ray, no files, no global random state."""

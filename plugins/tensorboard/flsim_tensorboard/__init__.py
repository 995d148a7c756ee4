"""flsim-tensorboard: runs of flsim in TensorBoard."""

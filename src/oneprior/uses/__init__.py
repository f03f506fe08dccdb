"""Uses of a prior: each function takes any denoiser and tensors in model range."""

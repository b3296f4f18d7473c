"""Pixels, views, prompts and the model layer, the same for serving and for training."""

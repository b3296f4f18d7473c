"""Fine-tuning, evaluation and promotion of models."""

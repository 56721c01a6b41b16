"""Models: registry, prompts, engines, budgets and fine-tuning."""

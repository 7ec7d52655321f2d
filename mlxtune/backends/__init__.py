"""The backends: each turns a model folder and a Selection into a Learner."""

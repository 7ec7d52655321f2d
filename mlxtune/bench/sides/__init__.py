"""What `mlxtune bench` runs in processes of their own: one fine-tuning by mlxtune, or the same by mlx-lm's trainer."""

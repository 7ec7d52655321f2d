"""Files of examples become batches: files -> rows -> messages -> tokens and loss mask -> batches."""

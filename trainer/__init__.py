"""The trainer: TFRecord shards into a single-cell protein-localisation classifier, and what judges it."""

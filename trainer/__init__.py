"""The trainer: TFRecord shards into a single-cell protein-localisation classifier, and what judges it."""

import os

# TensorFlow reads this when it is loaded. Its start-up notes (a dozen lines, none about this program) hide the first words
# that a user should read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

"""Beam jobs: fields of view into cells, cells into stratified TFRecord shards."""

import logging

# Beam says through the root logger, while it is imported, that its BigQuery client is absent. Nothing here uses it, and the
# first line that a newcomer reads should not be a warning.
logging.getLogger().addFilter(lambda record: "apitools not found" not in str(record.msg))

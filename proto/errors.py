"""The errors that both halves of the project raise on purpose. Everything else is a bug and may fail loudly."""


class FovError(ValueError):
    """A field of view that cannot be used. The job writes it to the dead letters and goes on.

    Attributes:
      stage: where it failed: "read", "segment" or "cut".
      reason: short and countable, snake_case: "missing_channel", "unreadable_image", "no_cells", ...
      detail: what was found, where, and what to do.
    """

    def __init__(self, stage: str, reason: str, detail: str):
        super().__init__(stage, reason, detail)
        self.stage = stage
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.detail} [{self.stage}: {self.reason}]"


class DatasetError(ValueError):
    """A data set or cell store that is not what its manifest or config says: the text names the file and the offset."""


class ConfigError(ValueError):
    """A flag or an input table that cannot work. Found before the first pixel is read; the text says what to do."""

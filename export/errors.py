"""Errors of the export. Each is one sentence to the user and a non-zero exit code."""


class ExportError(Exception):
    """Base class, never raised itself."""


class ManifestError(ExportError):
    """models.toml has a mistake. Names the table and the key."""


class SourceError(ExportError):
    """The weights are missing or cannot be exported."""


class ParityError(ExportError):
    """The outputs of the finished graph differ from the reference's. Names the error and the tolerance."""


class NotBuiltError(ExportError):
    """The model to verify again is not in the repository."""


class ServedError(ExportError):
    """A gateway does not answer, or answers with an error or the wrong shape."""

"""What can go wrong in an export: every class is one sentence to the user and a non-zero exit."""


class ExportError(Exception):
    """Base of all; never raised itself."""


class ManifestError(ExportError):
    """models.toml does not say what it must. Names the table and the key."""


class SourceError(ExportError):
    """The weights are not where the manifest says, or not of a kind that can be exported."""


class ParityError(ExportError):
    """The finished graph's numbers are not the reference's. Names the number and the tolerance."""


class NotBuiltError(ExportError):
    """What is to be verified again is not in the repository."""


class ServedError(ExportError):
    """A gateway does not answer, or not with what was asked for."""

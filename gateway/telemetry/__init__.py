"""Logs, metrics and traces. `record.RequestRecord` holds all that is known of a request."""

"""The experiments: each module is one experiment, a part of one, or a check."""

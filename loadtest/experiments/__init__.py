"""What is run: each module is one experiment, a part of one, or a check."""

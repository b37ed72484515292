"""The image tower of minilm-pictogram: its data, training and evaluation. Serving and export know nothing of it."""

"""Texts to token ids. `loader.TokenizerLoader` gives the tokenizer of an entry."""

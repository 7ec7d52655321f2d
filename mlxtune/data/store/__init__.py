"""The token store: rows of tokens in flat files, made once for everything that asks for them."""

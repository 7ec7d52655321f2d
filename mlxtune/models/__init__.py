"""A model's name becomes a checked local folder, its typed config and its tokenizer. No weights are loaded here."""

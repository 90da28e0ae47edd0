"""How the embedded model is made: data, codec, language model, ear, evaluation. Run from a checkout; not installed."""

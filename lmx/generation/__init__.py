"""Decoders: each file exports generate(model, params, prompts, rng, **options) -> tokens."""

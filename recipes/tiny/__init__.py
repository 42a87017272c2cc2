"""Parts of the recipe for the embedded models: sizes, tokenizer, phases, and what they learn to see."""

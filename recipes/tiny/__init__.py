"""Parts of the recipe for the embedded models: sizes, tokenizer, lessons, and what they learn to see."""

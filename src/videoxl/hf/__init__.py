"""What ties the models to transformers' Auto classes."""

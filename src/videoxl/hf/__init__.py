"""What ties the models to transformers' Auto classes. Importing it registers them (:mod:`videoxl._on_import`)."""

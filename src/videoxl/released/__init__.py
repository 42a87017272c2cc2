"""The calling styles of the released code: its model cards, quick starts and helper modules, over the engine."""

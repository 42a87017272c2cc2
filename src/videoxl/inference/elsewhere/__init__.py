"""Select here, answer there: the memory chooses what is looked at, another model answers."""

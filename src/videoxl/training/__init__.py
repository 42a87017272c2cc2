"""Training: every stage of the released systems from one configuration, on a CPU, a GPU or many machines."""

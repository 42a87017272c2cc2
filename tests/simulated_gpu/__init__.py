"""A simulated GPU: the package's own code at true size, on a machine that has none.

Integers and booleans have their real values. Floating point numbers have none (``meta`` tensors), unless a small model
asks for them (``real=True``). Every byte, FLOP, kernel launch, copy and synchronisation is counted with the line of the
package that caused it. A host tensor beside a device tensor raises, as it does on a GPU.

What it cannot see: whether a kernel exists for a shape, rounding in bf16, fragmentation, races, and real time. Its
seconds come from the rates of :mod:`tests.simulated_gpu.card`.

The dispatch mode stands on inner parts of torch (how modes are kept, how a device guard is set). They are the subject
of this instrument; the package itself uses none of them.
"""

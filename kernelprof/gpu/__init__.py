"""GPUs, as the host sees them: which there are, how they fare meanwhile, what a step takes on one.

NVML tells of the card (``devices``, ``watch``); it is read and never set.  The times are taken in
the workers (``kernelprof.probes.device``).  ``queue`` makes a network's time of what its kernels
take on the GPU and what the CPU takes to hand them over.
"""

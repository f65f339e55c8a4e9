"""The table of causes: each is a rule that turns evidence into suspects, or into nothing.

A suspect names its cause, says by what counterfactual its seconds are known, shows its evidence,
and tells what to try.  One that a change of variables takes away has no seconds until the change
was tried: ``at_most_s`` bounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kernelprof.diagnosis import rules_around_kernels as around
from kernelprof.diagnosis import rules_of_kernels as kernels
from kernelprof.diagnosis import rules_on_gpu as on_gpu
from kernelprof.diagnosis.evidence import Evidence
from kernelprof.results import Finding

Rule = Callable[[Evidence], Iterator[Finding]]

# What makes kernels slow: first what a change of variables takes away, as it explains the rest.
OF_KERNELS: tuple[Rule, ...] = (
    kernels.generic_blas,
    kernels.capped_instructions,
    kernels.switched_off,
    kernels.wrong_pool,
    kernels.free_pools,
    kernels.sleeping_threads,
    kernels.algorithm_search,
    kernels.unfolded_convolutions,
    kernels.missing_fusion,
    kernels.behind_reference,
)
# What costs time around them.
AROUND_KERNELS: tuple[Rule, ...] = (
    around.two_openmp_runtimes,
    around.taken_cpus,
    around.reorders,
    around.page_faults,
    around.slow_update,
    around.dispatch,
    around.feeding,
    around.denormals,
    around.first_rounds,
    around.slower_in_network,
    around.unknown,
)
CAUSES = OF_KERNELS + AROUND_KERNELS

BEHIND_REFERENCE_ON_GPU = on_gpu.where_kernels_count(kernels.behind_reference)
# On a GPU the CPU's libraries and threads explain nothing.
OF_KERNELS_ON_GPU: tuple[Rule, ...] = (
    on_gpu.slowed_down,
    on_gpu.no_search,
    on_gpu.turned_images,
    on_gpu.tf32_off,
    on_gpu.unfilled_card,
    BEHIND_REFERENCE_ON_GPU,
)
CAUSES_ON_GPU: tuple[Rule, ...] = (
    *OF_KERNELS_ON_GPU,
    on_gpu.launch_bound,
    on_gpu.host_bound,
    on_gpu.copies,
    on_gpu.allocation,
    on_gpu.where_kernels_count(around.slow_update),
    around.first_rounds,
    on_gpu.where_kernels_count(around.slower_in_network),
    around.unknown,
)
# Those that compare an engine's kernels with others.
COMPARISONS = (
    kernels.unfolded_convolutions,
    kernels.behind_reference,
    BEHIND_REFERENCE_ON_GPU,
)

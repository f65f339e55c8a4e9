"""Where does the time of my torch module go, layer by layer, and is another engine faster?

Run it in an interpreter that has torch and `pip install 'kernelprof[torch]'`:

    python profile_my_module.py

The engine torch is then the torch of that interpreter; NumPy's kernels are timed beside it.
"""

import torch
from torch import nn

import kernelprof

model = nn.Sequential(
    nn.Conv2d(3, 32, 5, padding=2),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(32 * 16 * 16, 10),
)
example = torch.randn(8, 3, 32, 32)  # a batch; its values do not matter

results = kernelprof.profile(
    model,
    example,
    engines=("torch",),  # add "tensorflow", "mxnet", ... where they are installed
    threads=(1,),
    budget_s=10,
    processes=1,
    output="my-module.kprof",  # for `kernelprof report` and `kernelprof diagnose`
    name="my-module",
)

for case in results.cases:
    print(f"{case.engine} {case.mode}: {case.measured.value_s * 1e3:.2f} ms a call")
    for layer in sorted(case.layers, key=lambda layer: -(layer.engine_s or 0)):
        ours, numpys = (layer.engine_s or 0) * 1e3, (layer.reference_s or 0) * 1e3
        print(f"  {layer.name:<12} {layer.kind:<16} {ours:8.3f} ms, NumPy {numpys:8.3f} ms")
for failure in results.failures:
    print(f"{failure.engine} {failure.mode}: {failure.kind}: {failure.reason}")

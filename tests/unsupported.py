"""What an engine truly cannot do: the sample of the contract test, and what its refusal says."""

UNSUPPORTED: dict[str, dict[str, str]] = {
    "tensorflow": {},
    "mxnet": {},
    "caffe": {},
    "cntk": {},
}

"""The codec's kernels for GPUs, in Triton (Tillet et al., MAPL 2019): what `native` is for CPUs, equal bit for bit.

Shapes: S segments (a layer's head) of T tokens of D values; N = T · D symbols a segment. `bf16`, `walsh` and `packing`
hold what kernels are made of; `rows`, `rans` and `lossless` hold the kernels; `plan` launches those of `rows`; `host`
goes from tensors on a device to bytes and back. Triton is the extra `gpu`; only this package imports it.
"""

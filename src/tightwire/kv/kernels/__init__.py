"""Kernels of the codec: native (C++) and Triton, chosen by device in `table`; `reference` and `rans` are the contract."""

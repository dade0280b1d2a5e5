"""A sentence encoder that we did not train: what compressed K and V inside its attention do to its embeddings.

| module | what |
|---|---|
| `encoder` | the model, with K and V recorded and replaced |
| `fit` | a strategy of the profiled space as it is meant for the encoder |
| `agreement` | embeddings with K and V as they arrive against those with raw ones |
| `draw` | strategies whose loss is spread |
| `families` | strategies by what they are made of |
"""

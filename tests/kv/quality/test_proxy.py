"""The proxy against attention written out."""

import pytest
import torch

from tightwire.kv.quality.proxy import Proxy
from tightwire.kv.quality.sides import Group


def test_error_is_that_of_attention_written_out() -> None:
    torch.manual_seed(0)
    k, v = torch.randn(2, 3, 2, 2, 20, 16).to(torch.bfloat16)
    queries = [[torch.randn(3, 4, 5, 16) for _ in range(2)]]
    proxy = Proxy(queries, [Group(k, v)])
    k_off, v_off = (x + 0.3 * torch.randn(x.shape).to(x.dtype) for x in (k, v))
    errors = []
    for prompt in range(3):
        for layer in range(2):
            for head in range(2):
                outs = []
                for keys, values in ((k, v), (k_off, v_off)):
                    here = [x[prompt, layer, head].float() for x in (keys, values)]
                    q = queries[0][layer][prompt, 2 * head : 2 * head + 2].reshape(10, 16)
                    outs.append(torch.softmax(q @ here[0].T / 4, dim=-1) @ here[1])
                errors.append(((outs[1] - outs[0]).square().sum() / outs[0].square().sum()).item())
    assert proxy.error([k_off], [v_off]) == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert proxy.error([k], [v]) == 0

"""The router over real HTTP servers that answer like vLLM."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

pytest.importorskip("aiohttp")
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tightwire.errors import ConfigError
from tightwire.kv.router import Instance, Router, choose

Case = Callable[["Bed"], Awaitable[None]]


class Stub:
    """A server whose answers begin when `release` is set, and which notes what it was asked and what was cut off."""

    def __init__(self, *, status: int = 200, waits: bool = False) -> None:
        self.status, self.asked, self.cut = status, [], 0  # type: ignore[var-annotated]
        self.release = asyncio.Event()
        self.arrived = asyncio.Event()
        if not waits:
            self.release.set()
        app = web.Application()
        for path in ("/v1/completions", "/v1/chat/completions"):
            app.router.add_post(path, self.complete)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        self.server = TestServer(app, handler_cancellation=True)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append({**body, "path": request.path, "headers": dict(request.headers)})
        self.arrived.set()
        try:
            transfer = "kv_transfer_params" in body and body.get("max_tokens") != 1
            if transfer:
                await self.release.wait()
            answer = web.StreamResponse(status=self.status, headers={"Content-Type": "text/event-stream"})
            await answer.prepare(request)
            for i in range(3):
                await answer.write(f"data: {i}\n\n".encode())
                await asyncio.sleep(0.01)
            await answer.write_eof()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        return answer

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": ["m"]})

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=self.status)


class Bed:
    """A prefill, a decode and the router over them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def start(self, prefill: Stub, *decodes: Stub) -> None:
        self.prefill, self.decodes, self.decode = prefill, decodes, decodes[0]
        for stub in (prefill, *decodes):
            await self._stack.enter_async_context(stub.server)
        urls = [str(stub.server.make_url("")).rstrip("/") for stub in decodes]
        instances = [Instance(url, f"tcp://kv-{i}:1" if len(urls) > 1 else "") for i, url in enumerate(urls)]
        self.router = Router([Instance(str(prefill.server.make_url("")).rstrip("/"))], instances)
        self.client = await self._stack.enter_async_context(
            TestClient(TestServer(self.router.app(), handler_cancellation=True))
        )

    async def ask(self, path: str = "/v1/completions", **body: Any) -> tuple[int, str]:
        async with self.client.post(path, json={"prompt": "p", "max_tokens": 9, **body}) as response:
            return response.status, await response.text()


def run(case: Case) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            await asyncio.wait_for(case(Bed(stack)), 20)

    asyncio.run(main())


def test_both_are_asked_at_the_same_time_and_decode_is_streamed() -> None:
    async def case(bed: Bed) -> None:
        await bed.start(Stub(), Stub(waits=True))
        asking = asyncio.create_task(bed.ask(stream=True, kv_transfer_params={"slo_s": 1, "transfer_id": "mine"}))
        await asyncio.gather(bed.prefill.arrived.wait(), bed.decode.arrived.wait())  # decode waits and has not answered
        bed.decode.release.set()
        assert await asking == (200, "data: 0\n\ndata: 1\n\ndata: 2\n\n")
        (first,), (second,) = bed.prefill.asked, bed.decode.asked
        assert (first["max_tokens"], first["stream"]) == (1, False)
        assert (second["max_tokens"], second["stream"]) == (9, True)
        assert first["kv_transfer_params"] == second["kv_transfer_params"]
        assert first["kv_transfer_params"]["slo_s"] == 1
        assert first["kv_transfer_params"]["transfer_id"] != "mine"  # names are the router's: no two are equal

    run(case)


def test_the_chat_api_and_headers() -> None:
    async def case(bed: Bed) -> None:
        await bed.start(Stub(), Stub())
        async with bed.client.post(
            "/v1/chat/completions", json={"messages": [], "max_completion_tokens": 7, "stream_options": {}, "stream": True},
            headers={"Authorization": "Bearer x"},
        ) as response:  # fmt: skip
            assert response.status == 200
            assert response.content_type == "text/event-stream"
        for stub in (bed.prefill, bed.decode):
            assert stub.asked[0]["path"] == "/v1/chat/completions"
            assert stub.asked[0]["headers"]["Authorization"] == "Bearer x"
        assert bed.prefill.asked[0]["max_completion_tokens"] == 1
        assert "stream_options" not in bed.prefill.asked[0]

    run(case)


@pytest.mark.parametrize("fault", ["error", "gone"])
def test_when_prefill_fails_decode_computes(fault: str) -> None:
    async def case(bed: Bed) -> None:
        await bed.start(Stub(status=500), Stub(waits=True))
        if fault == "gone":
            await bed.prefill.server.close()
        status, text = await bed.ask()
        assert (status, text.count("data")) == (200, 3)
        *waiting, last = bed.decode.asked
        assert "kv_transfer_params" not in last
        assert bed.decode.cut == len(waiting) == (1 if fault == "error" else len(waiting))

    run(case)


def test_when_decode_is_gone_the_client_is_told() -> None:
    async def case(bed: Bed) -> None:
        await bed.start(Stub(), Stub())
        await bed.decode.server.close()
        status, text = await bed.ask()
        assert status == 502
        assert "decode" in json.loads(text)["error"]["message"]
        async with bed.client.get("/health") as response:
            assert response.status == 503
        async with bed.client.get("/v1/models") as response:
            assert response.status == 502

    run(case)


def test_an_error_of_decode_is_passed_on() -> None:
    async def case(bed: Bed) -> None:
        await bed.start(Stub(), Stub(status=400))
        assert (await bed.ask())[0] == 400

    run(case)


def test_a_client_that_leaves_ends_both_requests() -> None:
    async def case(bed: Bed) -> None:
        await bed.start(Stub(), Stub(waits=True))
        asking = asyncio.create_task(bed.ask())
        await bed.decode.arrived.wait()
        asking.cancel()
        while not bed.decode.cut:
            await asyncio.sleep(0.01)
        while any(instance.in_flight for instance in (*bed.router.prefills, *bed.router.decodes)):
            await asyncio.sleep(0.01)

    run(case)


def test_several_decode_instances_take_turns_and_prefill_is_told_where_to_send() -> None:
    async def case(bed: Bed) -> None:
        await bed.start(Stub(), Stub(waits=True), Stub(waits=True))
        asking = [asyncio.create_task(bed.ask()) for _ in range(4)]
        while sum(len(decode.asked) for decode in bed.decodes) < 4:
            await asyncio.sleep(0.01)
        for i, decode in enumerate(bed.decodes):
            assert [asked["kv_transfer_params"]["endpoint"] for asked in decode.asked] == [f"tcp://kv-{i}:1"] * 2
            decode.release.set()
        assert [status for status, _ in await asyncio.gather(*asking)] == [200] * 4

    run(case)


def test_what_is_not_a_request_is_refused() -> None:
    async def case(bed: Bed) -> None:
        await bed.start(Stub(), Stub())
        for data in (b"{", b"[]", b"\xff"):
            async with bed.client.post("/v1/completions", data=data) as response:
                assert response.status == 400
        async with bed.client.get("/v1/models") as response:
            assert await response.json() == {"data": ["m"]}
        async with bed.client.get("/health") as response:
            assert response.status == 200

    run(case)


def test_instances_that_are_down_are_passed_over() -> None:
    a, b = Instance("http://a"), Instance("http://b", in_flight=3)
    assert choose([a, b], 0.0) is a
    a.down_until_s = 5.0
    assert choose([a, b], 1.0) is b
    assert choose([a], 1.0) is a
    assert choose([a, b], 6.0) is a


@pytest.mark.parametrize("text", ["host:8000", "ftp://host", "http://a=b:1"])
def test_addresses_that_cannot_be_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=text.partition("=")[0]):
        Instance.parse(text)


def test_an_address_may_say_where_kv_is_taken() -> None:
    instance = Instance.parse("http://a:1/=tcp://b:2")
    assert (instance.url, instance.endpoint) == ("http://a:1", "tcp://b:2")
    assert Instance.parse("https://a").endpoint == ""


def test_several_decode_instances_need_their_endpoints() -> None:
    with pytest.raises(ConfigError, match="decode: with several"):
        Router([Instance("http://a")], [Instance("http://b"), Instance("http://c")])
    with pytest.raises(ConfigError, match="prefill: no instance"):
        Router([], [Instance("http://b")])

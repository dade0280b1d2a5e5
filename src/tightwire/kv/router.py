"""A small router for prefill/decode behind the OpenAI API, for those who have none.

A completion is asked of a prefill instance (one token, whose text is dropped) and, at the same time, of a decode
instance, which so waits for the KV before its first piece arrives. The client gets decode's answer as it is streamed.
When prefill fails before that, decode is asked again without a transfer, and computes the prompt itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector, web

from tightwire.errors import ConfigError

logger = logging.getLogger(__name__)
PATHS = ("/v1/completions", "/v1/chat/completions")
MAX_REQUEST_BYTES = 64 * 2**20
DOWN_S = 5.0  # an instance that did not answer is passed over for this long, if there is another
_CONNECT_S = 5.0
_PASSED_ON = {"authorization", "x-request-id"}
_JSON = {"content-type": "application/json"}


@dataclass(eq=False)
class Instance:
    """A vLLM server at `url`; `endpoint`: where it takes KV, if prefill instances serve several decode instances."""

    url: str
    endpoint: str = ""
    in_flight: int = 0
    down_until_s: float = float("-inf")

    @classmethod
    def parse(cls, text: str) -> Instance:
        """`http://host:port` or `http://host:port=tcp://host:port`; raises ConfigError for anything else."""
        url, _, endpoint = text.partition("=")
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"instance {text!r}: give its address, like http://host:8000")
        if endpoint and not endpoint.startswith("tcp://"):
            raise ConfigError(f"instance {text!r}: after = give where it takes KV, like tcp://host:7777")
        return cls(url.rstrip("/"), endpoint)


def choose(instances: Sequence[Instance], now_s: float) -> Instance:
    """The one with the least to do, of those that are not known to be down."""
    up = [instance for instance in instances if instance.down_until_s <= now_s] or instances
    return min(up, key=lambda instance: instance.in_flight)


def prefill_body(body: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """`body` for the instance that only computes the prompt."""
    dropped = {"stream_options", "min_tokens", "n", "best_of"}
    kept = {key: value for key, value in body.items() if key not in dropped}
    limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    return {**kept, "stream": False, limit: 1, "kv_transfer_params": params}


def transfer_params(body: dict[str, Any], name: str, decode: Instance) -> dict[str, Any]:
    """What the client asks for its transfer, with the name that both instances know it by."""
    asked = body.get("kv_transfer_params")
    params = dict(asked) if isinstance(asked, dict) else {}
    params["transfer_id"] = name
    if decode.endpoint:
        params["endpoint"] = decode.endpoint
    return params


@dataclass
class Router:
    """`app()` is what to serve."""

    prefills: Sequence[Instance]
    decodes: Sequence[Instance]
    now_s: Callable[[], float] = time.monotonic
    _session: ClientSession | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name, instances in (("prefill", self.prefills), ("decode", self.decodes)):
            if not instances:
                raise ConfigError(f"{name}: no instance is given; give at least one address")
        if len(self.decodes) > 1 and not all(decode.endpoint for decode in self.decodes):
            raise ConfigError(
                "decode: with several instances give for each where it takes KV: http://…=tcp://host:port"
            )

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.cleanup_ctx.append(self._lifetime)
        for path in PATHS:
            app.router.add_post(path, self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        return app

    async def _lifetime(self, app: web.Application) -> AsyncIterator[None]:
        timeout = ClientTimeout(total=None, sock_connect=_CONNECT_S)
        async with ClientSession(timeout=timeout, connector=TCPConnector(limit=0)) as self._session:
            yield

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            body = json.loads(await request.read())
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return web.json_response({"error": {"message": "the body is not a JSON object", "code": 400}}, status=400)
        headers = {key: value for key, value in request.headers.items() if key.lower() in _PASSED_ON}
        decode = choose(self.decodes, self.now_s())
        decode.in_flight += 1
        params = transfer_params(body, uuid.uuid4().hex, decode)
        prefill = asyncio.create_task(self._prefill(request.path, prefill_body(body, params), headers))
        try:
            with_transfer = asyncio.create_task(
                self._answer(request, decode, {**body, "kv_transfer_params": params}, headers)
            )
            return await self._either(prefill, with_transfer, request, decode, body, headers)
        except (ClientError, OSError) as error:
            decode.down_until_s = self.now_s() + DOWN_S
            return _unreachable(error)
        finally:
            decode.in_flight -= 1
            prefill.cancel()

    async def _either(
        self, prefill: asyncio.Task[bool], answer: asyncio.Task[_Answer], request: web.Request, decode: Instance,
        body: dict[str, Any], headers: dict[str, str],
    ) -> web.StreamResponse:  # fmt: skip
        """Decode's answer; if prefill fails before it began, that of decode without a transfer."""
        try:
            await asyncio.wait({prefill, answer}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not await prefill:
                logger.warning("prefill failed; decode computes the prompt")
                answer.cancel()
                plain = {key: value for key, value in body.items() if key != "kv_transfer_params"}
                answer = asyncio.create_task(self._answer(request, decode, plain, headers))
            return await (await answer).forward()
        finally:
            answer.cancel()

    async def _prefill(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> bool:
        """Whether some prefill instance computed the prompt. A second one is tried when the first cannot be reached."""
        for _ in range(min(2, len(self.prefills))):
            instance = choose(self.prefills, self.now_s())
            instance.in_flight += 1
            try:
                async with self._post(instance, path, body, headers) as response:
                    await response.read()
                    if response.status < 500:
                        return response.status == 200
                    logger.warning("prefill %s answered %d", instance.url, response.status)
            except (ClientError, OSError) as error:
                logger.warning("prefill %s: %r", instance.url, error)
            finally:
                instance.in_flight -= 1
            instance.down_until_s = self.now_s() + DOWN_S
        return False

    async def _answer(
        self, request: web.Request, decode: Instance, body: dict[str, Any], headers: dict[str, str]
    ) -> _Answer:
        """Decode's answer from its first bytes on."""
        context = self._post(decode, request.path, body, headers)
        response = await context.__aenter__()
        try:
            return _Answer(request, response, await response.content.readany(), context)
        except BaseException:
            response.close()
            await context.__aexit__(None, None, None)
            raise

    @asynccontextmanager
    async def _post(
        self, instance: Instance, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> AsyncIterator[ClientResponse]:
        assert self._session is not None
        data = json.dumps(body).encode()
        async with self._session.post(instance.url + path, data=data, headers={**headers, **_JSON}) as response:
            yield response

    async def _models(self, request: web.Request) -> web.Response:
        assert self._session is not None
        try:
            async with self._session.get(choose(self.decodes, self.now_s()).url + "/v1/models") as response:
                return web.Response(body=await response.read(), status=response.status, content_type="application/json")
        except (ClientError, OSError) as error:
            return _unreachable(error)

    async def _health(self, request: web.Request) -> web.Response:
        """200 while a decode instance is well: without prefill it computes prompts itself."""
        assert self._session is not None
        for decode in self.decodes:
            try:
                async with self._session.get(decode.url + "/health") as response:
                    if response.status == 200:
                        return web.Response()
            except (ClientError, OSError):
                continue
        return web.Response(status=503)


def _unreachable(error: Exception) -> web.Response:
    return web.json_response({"error": {"message": f"decode: {error!r}", "code": 502}}, status=502)


@dataclass
class _Answer:
    """An answer whose first bytes are there; `context` is to be left when it is forwarded."""

    request: web.Request
    response: ClientResponse
    first: bytes
    context: Any

    async def forward(self) -> web.StreamResponse:
        try:
            answer = web.StreamResponse(
                status=self.response.status, headers={"Content-Type": self.response.headers.get("Content-Type", "")}
            )
            await answer.prepare(self.request)
            await answer.write(self.first)
            async for piece in self.response.content.iter_any():
                await answer.write(piece)
            await answer.write_eof()
            return answer
        except BaseException:
            self.response.close()  # the instance stops generating
            raise
        finally:
            await self.context.__aexit__(None, None, None)


def serve(prefills: Sequence[str], decodes: Sequence[str], host: str, port: int) -> None:
    """Until it is interrupted."""
    router = Router([Instance.parse(text) for text in prefills], [Instance.parse(text) for text in decodes])
    web.run_app(router.app(), host=host, port=port, print=None)

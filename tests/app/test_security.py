"""Keys, secrets in files, and going down: what a service among others needs. Against real services."""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time

import httpx
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from app.client.client import StreamClient
from app.client.errors import BadKey, RequestRefused
from app.sealing import BadSignature, Sealed, seal, unseal
from app.sessions import open_store
from app.sessions.base import BadStoreUrl
from app.settings import BadSetting, Settings
from benchmarks.sessions import RedisServer
from tests.app.conftest import ROOT, running
from tests.app.streaming import message
from tests.app.test_sessions import needs_redis

OLD, NEW = "the-old-key-0123456789", "the-new-key-0123456789"


@pytest.fixture(scope="module")
def guarded(model, tmp_path_factory):
    """A service with two keys in a file."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "crt_api_keys").write_text(f"{OLD}\n{NEW}\n")
    with running(model, folder / "service", CRT_THREADS="1", CRT_SECRETS=str(folder)) as service:
        yield service


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {OLD}"}], ids=str)
def test_without_a_key_nothing_of_the_api_answers(guarded, headers):
    """A problem as all others, which says what to send."""
    for method, path in (("GET", "/v1/model"), ("GET", "/v1/streams"), ("POST", "/v1/clips"), ("GET", "/v1/nothing")):
        answer = httpx.request(method, guarded.url + path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_video_that_is_refused_hears_why(guarded):
    """Although it is still being sent."""
    answer = httpx.post(f"{guarded.url}/v1/clips", content=bytes(20_000_000), headers={"Content-Type": "video/mp4"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_either_key_opens_in_each_of_its_forms(guarded):
    """So that one can be replaced while clients still use the other."""
    for key in (OLD, NEW):
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
            assert httpx.get(f"{guarded.url}/v1/streams", headers=headers).status_code == 200


def test_whether_the_service_lives_anybody_may_ask(guarded):
    """Those that watch over it have no key; and what was refused is counted."""
    for path in ("/healthz", "/readyz", "/metrics", "/docs"):
        assert httpx.get(guarded.url + path).status_code == 200, path
    httpx.get(f"{guarded.url}/v1/model")
    assert 'crt_errors_total{code="unauthorized"}' in httpx.get(f"{guarded.url}/metrics").text


def test_a_websocket_brings_its_key_as_a_header_or_as_a_subprotocol(guarded):
    """Browsers can do only the second; the key is not said back."""
    address = f"{guarded.url.replace('http', 'ws', 1)}/v1/streams/guarded/frames"
    with pytest.raises(InvalidStatus, match="401"):
        connect(address, subprotocols=["crt.v1", "crt.key.wrong"])
    with connect(address, subprotocols=["crt.v1"], additional_headers={"Authorization": f"Bearer {NEW}"}) as socket:
        assert '"ready"' in socket.recv()
    with connect(address, subprotocols=["crt.v1", f"crt.key.{NEW}"]) as socket:
        assert socket.subprotocol == "crt.v1"
        assert '"ready"' in socket.recv()


async def _stream(url, key):
    frames = [(i, i / 12.5, message(i)[16:]) for i in range(30)]
    async with StreamClient(url, f"by-client-{key}", key=key) as client:
        return [one async for one in client.messages(frames) if one["type"] == "segment" and one["final"]]


def test_the_client_streams_with_a_key_and_says_what_is_missing_without(guarded, tmp_path):
    """No retry mends a wrong key, so it ends at once."""
    assert asyncio.run(_stream(guarded.url, NEW))
    for key, words in ((None, "asks for a key"), ("wrong", "does not accept this key")):
        with pytest.raises(RequestRefused, match=words):
            asyncio.run(_stream(guarded.url, key))
    done = subprocess.run(
        [sys.executable, "-m", "app.client", str(ROOT / "examples/kitchen.mp4"), "--stream", "x", "--server", guarded.url,
         "--key-file", str(tmp_path / "none")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("key_file_bad: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_services_own_file_of_keys_serves_a_client_also_while_one_is_replaced(guarded, tmp_path):
    """Its first line; and what is no key is an error at once that does not tell it, instead of one connection after the other."""
    keys, empty = tmp_path / "crt_api_keys", tmp_path / "empty"
    keys.write_text(f"\n{NEW}\n{OLD}\n")
    empty.write_text("\n")
    command = [
        sys.executable,
        "-m",
        "app.client",
        str(ROOT / "examples/kitchen.mp4"),
        "--stream",
        "rotated",
        "--server",
        guarded.url,
    ]
    kwargs = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([*command, "--key-file", str(keys)], **kwargs)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, "--key-file", str(empty)], **kwargs)
    assert (done.returncode, done.stderr) == (1, f"key_file_bad: {empty}: there is no key in it\n")
    with pytest.raises(BadKey) as raised:
        StreamClient(guarded.url, "x", key=f"{NEW}\n{OLD}")
    assert NEW not in str(raised.value)


def test_a_secret_is_a_file_and_a_variable_goes_before_it(monkeypatch, tmp_path):
    """Named after its setting."""
    (tmp_path / "crt_state_key").write_text("0123456789abcdef\n")
    monkeypatch.setenv("CRT_SECRETS", str(tmp_path))
    assert Settings.read().state_keys == [b"0123456789abcdef"]
    monkeypatch.setenv("CRT_STATE_KEY", "fedcba9876543210\n0123456789abcdef")
    assert Settings.read().state_keys == [b"fedcba9876543210", b"0123456789abcdef"]


def test_a_misspelt_or_short_secret_is_an_error_that_does_not_tell_it(monkeypatch, tmp_path):
    """The one would leave the service open, the other guessable."""
    monkeypatch.setenv("CRT_SECRETS", str(tmp_path))
    (tmp_path / "crt_api_key").write_text(OLD)
    with pytest.raises(BadSetting, match="crt_api_key; did you mean crt_api_keys"):
        Settings.read()
    (tmp_path / "crt_api_key").rename(tmp_path / "crt_api_keys")
    (tmp_path / "crt_api_keys").write_text(f"{OLD}\nshort-one\n")
    with pytest.raises(BadSetting, match=r"CRT_API_KEYS: .*16 characters") as raised:
        Settings.read()
    assert "short-one" not in str(raised.value)


def test_of_several_state_keys_the_first_signs_and_all_are_accepted():
    """A key is replaced by putting the new one before it, and later taking the old one away."""
    content = Sealed("kitchen", 3, "sha256:0", b"state")
    text = seal(content, b"old")
    assert unseal(text, [b"new", b"old"]) == content
    with pytest.raises(BadSignature):
        unseal(text, [b"new"])


def test_redis_takes_its_password_and_user_from_files(tmp_path):
    """With the rights that docker/redis/users.acl.template gives, and no more, all works and lasts; a file that is missing is an error."""
    needs_redis()
    users = (ROOT / "docker/redis/users.acl.template").read_text()
    (tmp_path / "users.acl").write_text(users.replace("#HASH", ">secret"))
    (tmp_path / "password").write_text("secret\n")
    url = f"redis://crt@127.0.0.1:{{}}/0?password_file={tmp_path / 'password'}"
    with RedisServer(tmp_path, "--appendfsync", "no", "--aclfile", str(tmp_path / "users.acl")) as server:
        asyncio.run(_all_calls(url.format(server.port)))
        server.kill()
        server.start()
        asyncio.run(_still_there(url.format(server.port)))
        with pytest.raises(BadStoreUrl, match=r"password_file=.*none: it cannot be read"):
            open_store(f"redis://crt@127.0.0.1:{server.port}/0?password_file={tmp_path / 'none'}")
        assert Redis(port=server.port, username="health", password="any").ping()
        for stranger in (Redis(port=server.port), Redis(port=server.port, username="health", password="any")):
            with pytest.raises((AuthenticationError, NoPermissionError)):
                stranger.get("crt:1:ids")


async def _all_calls(url):
    from tests.app.test_sessions import advance, session

    async with open_store(url) as store:
        made = session()
        await store.create(made)
        after = await advance(store, made)
        assert await store.load(made.id) == after
        assert list(await store.checkpoints(made.id)) == [1]
        assert await store.answer(made.id, "none") is None
        assert [one.id for one in await store.list(None, 10)] == [made.id]
        assert await store.count() == 1
        assert await store.size() > 0
        assert await store.expire(time.time()) == []
        assert await store.delete(made.id)
        await store.create(session("lasting"))
        await advance(store, await store.load("lasting"))


async def _still_there(url):
    async with open_store(url) as store:
        assert (await store.load("lasting")).version == 1
        assert await store.count() == 1


def test_a_service_that_goes_down_is_no_longer_ready_and_ends_what_it_began(model, tmp_path):
    """A proxy sends it nothing new; an upload that had begun is answered."""
    with running(model, tmp_path, CRT_THREADS="1", CRT_DRAIN_SECONDS="20") as service:
        video = (ROOT / "examples/kitchen.mp4").read_bytes()
        answers = []
        begun = threading.Event()

        def slowly():
            for part in range(8):
                yield video[part * len(video) // 8 : (part + 1) * len(video) // 8]
                begun.set()
                time.sleep(0.5)

        def post():
            headers = {"Content-Type": "video/mp4"}
            answers.append(httpx.post(f"{service.url}/v1/clips", content=slowly(), headers=headers, timeout=60))

        thread = threading.Thread(target=post)
        thread.start()
        begun.wait(10)
        service.child.terminate()
        time.sleep(0.5)
        with contextlib.suppress(httpx.ConnectError):  # nobody listens any more
            assert httpx.get(f"{service.url}/readyz").status_code == 503
        assert thread.is_alive()
        thread.join(60)
        assert answers[0].status_code == 200
        assert answers[0].json()["segments"]
        assert service.child.wait(20) in (0, -15)

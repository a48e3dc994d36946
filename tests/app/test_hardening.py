"""What browsers may do with the service: through a real one."""

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.app.conftest import ROOT


def test_a_page_of_another_site_opens_no_websocket(service):
    """Though its browser is on this machine."""
    url = service.url.replace("http", "ws", 1) + "/v1/streams/foreign/frames"
    with pytest.raises(InvalidStatus) as refused:
        connect(url, origin="https://example.org")
    assert refused.value.response.status_code == 403
    assert b'"origin_foreign"' in refused.value.response.body
    with connect(url, origin=service.url) as socket:
        assert '"ready"' in socket.recv()
    with connect(url, origin="https://home.example", additional_headers={"X-Forwarded-Host": "home.example"}) as socket:
        assert '"ready"' in socket.recv()


def test_every_answer_is_hardened(client):
    """Pages may run what comes from here, and nothing else."""
    for path in ("/", "/docs", "/v1/model", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert "camera=(self)" in client.get("/").headers["permissions-policy"]


def test_the_page_comes_from_here_alone():
    """No address of another host in any of its files, but for names of XML."""
    for file in (ROOT / "app" / "web").rglob("*"):
        if file.suffix in (".js", ".css", ".html", ".svg"):
            text = file.read_text().replace("http://www.w3.org/", "")
            assert "https://" not in text, file
            assert "//cdn" not in text, file

"""Log lines and traces say which request and which stream they are about."""

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.problems import STATUS
from tests.app.conftest import ROOT, running
from tests.app.streaming import Camera


def test_every_log_line_is_json_with_the_ids_of_its_request_and_stream(model, tmp_path):
    with running(model, tmp_path, CRT_LOG_FORMAT="json", CRT_LOG_LEVEL="info", CRT_THREADS="1") as service:
        camera = Camera(service.url, "porch")
        camera.send(0, 40)
        camera.end()
        answer = httpx.get(f"{service.url}/v1/streams/porch", headers={"X-Request-ID": "mine-1"})
        assert answer.headers["X-Request-ID"] == "mine-1"
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    assert all({"timestamp", "level", "logger", "message"} <= set(line) for line in lines)
    came, left = (line for line in lines if line["logger"] == "app.connections")
    assert (came["message"], came["stream_id"]) == ("stream porch has a writer from frame 0 on", "porch")
    assert left["message"] == "stream porch has no writer any more, after frame 39"
    assert re.fullmatch("[0-9a-f]{32}", came["request_id"])
    assert came["request_id"] == left["request_id"]
    (access,) = (line for line in lines if "GET /v1/streams/porch" in line["message"])
    assert (access["request_id"], access["stream_id"]) == ("mine-1", "porch")


def test_text_lines_end_with_the_ids(model, tmp_path):
    with running(model, tmp_path, CRT_LOG_LEVEL="info", CRT_THREADS="1") as service:
        httpx.get(f"{service.url}/healthz", headers={"X-Request-ID": "abc"})
    (line,) = (line for line in service.log.read_text().splitlines() if "/healthz" in line)
    assert line.endswith("[request_id=abc]")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>"])
def test_an_id_that_is_none_is_replaced(client, given):
    answer = client.get("/v1/streams/nobody", headers={"X-Request-ID": given})
    assert answer.status_code == STATUS["session_unknown"]
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


class Collector(ThreadingHTTPServer):
    """Takes in spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


def test_spans_go_to_the_collector(model, tmp_path):
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{collector.server_port}"
        with running(model, tmp_path, CRT_TRACES=address, CRT_THREADS="1") as service:
            camera = Camera(service.url, "porch")
            camera.send(0, 40)
            camera.end()
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            httpx.get(f"{service.url}/v1/streams/porch", headers={"traceparent": parent}).raise_for_status()
        collector.shutdown()
    spans = {
        name: [span for span in collector.spans if span.name == name] for name in {s.name for s in collector.spans}
    }
    assert {"clip", "backbone", "crt", "commit"} <= set(spans)
    assert len(spans["clip"]) == len(spans["backbone"]) >= 4
    clips = {span.span_id for span in spans["clip"]}
    assert all(span.parent_span_id in clips for span in spans["backbone"])
    for span in spans["commit"]:
        assert {a.key: a.value.string_value for a in span.attributes}["stream_id"] == "porch"
        assert span.end_time_unix_nano > span.start_time_unix_nano
    (asked,) = spans["GET /v1/streams/{id}"]
    assert asked.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert asked.parent_span_id.hex() == "b7ad6b7169203331"


def test_a_collector_that_is_away_harms_nobody(model, tmp_path):
    with running(model, tmp_path, CRT_TRACES="http://127.0.0.1:9", CRT_THREADS="1") as service:
        camera = Camera(service.url, "porch")
        camera.send(0, 40)
        assert len(camera.end().segments) >= 1


def test_without_a_collector_nothing_of_opentelemetry_is_loaded():
    code = "import sys, app.main; sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

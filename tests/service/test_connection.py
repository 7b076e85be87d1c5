"""Reaching a dashboard: addresses, tokens, and what is said where there is none."""

import http.server
import json
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from ray._private.authentication import http_token_authentication

import raysim as rs
from raysim.service import connection
from raysim.service.cluster import Cluster

SECRET = "0123456789abcdef-secret"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for name in (*connection.VARIABLES, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


class Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers /api/version as a dashboard of Ray 2.60 with a token does."""

    def do_GET(self):
        self.server.heard.append(dict(self.headers))
        status, body = self.server.answer(self.headers.get("Authorization"))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/login")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


VERSION = (200, json.dumps({"version": "4", "ray_version": "2.60.0"}))


def with_token(bearer):
    if bearer is None:
        return 401, "Unauthorized: Missing authentication token"
    return VERSION if bearer == f"Bearer {SECRET}" else (403, "Forbidden: Invalid authentication token")


@pytest.fixture
def dashboard(request):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    server.answer, server.heard = request.param, []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_address_comes_from_the_option_then_from_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://ray:1")
    assert connection.address_of(None) == "http://ray:1"
    monkeypatch.setenv("RAYSIM_ADDRESS", "https://raysim:2/")
    assert connection.address_of(None) == "https://raysim:2"
    assert connection.address_of("127.0.0.1:8265") == "http://127.0.0.1:8265"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "No cluster is named. Use --address"),
        ("auto", "'auto' is not a dashboard's address"),
        ("ray://host:10001", "not a dashboard's address"),
        ("http://", "not a dashboard's address"),
        ("http://host:port", "not a dashboard's address"),
    ],
)
def test_no_address(given, said):
    with pytest.raises(rs.ConfigError, match=said):
        connection.address_of(given)


def test_the_token_is_looked_for_where_ray_looks(monkeypatch, tmp_path):
    assert connection.token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("from home\n")
    assert connection.token() == "from home"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    assert connection.token() is None
    (tmp_path / "token").write_text("from file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert connection.token() == "from file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from text")
    assert connection.token() == "from text"


@pytest.mark.parametrize("dashboard", [lambda _: VERSION], indirect=True)
def test_a_dashboard_that_asks_for_nothing_gets_no_token(dashboard, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    assert connection.headers(dashboard.address) == {}
    assert not any("Authorization" in heard for heard in dashboard.heard)


@pytest.mark.parametrize("dashboard", [lambda _: VERSION], indirect=True)
@pytest.mark.parametrize("found", [SECRET, ""])
def test_rays_client_sends_none_either_though_it_finds_one_and_wants_none_though_it_finds_none(
    dashboard, monkeypatch, found
):
    mode, loader = (
        SimpleNamespace(is_token_auth_enabled=lambda: True),
        SimpleNamespace(instance=lambda: finding),
    )

    def look():
        if not found:
            raise rs.ConfigError("token authentication is on, and there is no token")
        return {"authorization": f"Bearer {found}"}

    finding = SimpleNamespace(get_token_for_http_header=look)
    monkeypatch.setattr(http_token_authentication, "auth_utils", mode)
    monkeypatch.setattr("ray._raylet.AuthenticationTokenLoader", loader)
    client = Cluster(dashboard.address)._ray
    assert client._do_request("GET", "/api/version").status_code == 200
    sent = [
        {key.lower(): value for key, value in heard.items()}.get("authorization") for heard in dashboard.heard
    ]
    assert sent[-1] is None
    assert not any(sent)


@pytest.mark.parametrize("dashboard", [with_token], indirect=True)
def test_a_dashboard_that_asks_gets_the_token(dashboard, monkeypatch):
    with pytest.raises(rs.ConfigError, match="asks for a token, and none was found"):
        connection.headers(dashboard.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(
        rs.ConfigError, match="RAY_AUTH_TOKEN_PATH names /nowhere/token, which cannot be read"
    ):
        connection.headers(dashboard.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-clusters-token")
    with pytest.raises(rs.ConfigError, match="refuses the token from RAY_AUTH_TOKEN") as error:
        connection.headers(dashboard.address)
    assert "another-clusters-token" not in str(error.value)
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    assert connection.headers(dashboard.address) == {"Authorization": f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    "dashboard",
    [lambda _: (200, "<html>hello</html>"), lambda _: (404, "no"), lambda _: (302, "")],
    indirect=True,
)
def test_something_else_answers(dashboard):
    with pytest.raises(rs.ConfigError, match=r"not a Ray dashboard \(status (200|404|302)\)"):
        connection.headers(dashboard.address)


def test_nothing_listens():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(rs.ConfigError, match=r"Nothing answers at .*Connection refused\).*tunnel") as error:
        connection.headers(f"http://127.0.0.1:{port}")
    assert "HTTPConnectionPool" not in str(error.value)


def test_something_listens_and_says_nothing(monkeypatch):
    monkeypatch.setattr(connection, "TIMES", (1.0, 0.05))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(rs.ConfigError, match=r"takes calls but does not answer within 0 s"):
            connection.headers(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("dashboard", [lambda _: VERSION], indirect=True)
def test_rays_client_keeps_its_uploads_to_itself(dashboard):
    code = (
        "import logging; from raysim.service.cluster import Cluster; "
        f"Cluster({dashboard.address!r}); "
        "print(logging.getLogger('ray.dashboard.modules.dashboard_sdk').isEnabledFor(logging.INFO))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")

"""The server of `antiphase view`: the page of a run that grows, for requests to its own address alone."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

import antiphase
from antiphase import cli
from antiphase.errors import InvalidInputError
from antiphase.report.view import Server, Viewer, serving, signature_of
from conftest import byte_tokenizer, tiny_model
from page_cases import cut_after

OPTIONS = {"num_prompts": 3, "max_new_tokens": 16, "batch_size": 1, "num_resamples": 10}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A probe that stopped after two of its three batches."""
    out = tmp_path_factory.mktemp("view") / "run"
    cut_after(2, lambda: finish(out))
    return out


def finish(out, **options):
    plain = {"tokenizer": byte_tokenizer(), "name": "mine", "out": out, "figures": False, "progress": False}
    return antiphase.probe(tiny_model(), **plain, **OPTIONS, **options)


@pytest.fixture
def growing(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def get(server, path="/", **headers):
    """Status, headers and body; the Host header as asked for."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def values_of(html):
    start = html.index('<script type="application/json" id="values">')
    return json.loads(html[html.index(">", start) + 1 : html.index("</script>", start)])


def test_the_page_follows_the_run(growing) -> None:
    with serving([growing]) as server:
        status, headers, body = get(server)
        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "connect-src &#39;self&#39;" in body
        (subject,) = values_of(body)["subjects"]
        assert len(subject["rollouts"]) == 2
        assert "its 2 finished rollouts" in body
        version = get(server, "/version")[2]
        assert get(server, "/version")[2] == version
        # Not made again for as long as nothing changes.
        assert get(server, "/index.html")[2] == body
        found = finish(growing, resume=True, report=False)
        assert get(server, "/version")[2] != version
        body = get(server)[2]
        assert "finished rollouts" not in body
        (subject,) = values_of(body)["subjects"]
        assert subject["readings"][0]["spearman"] == found.result()["spearman"]
        assert subject["readings"][0]["num_rollouts"] == 3


def test_a_part_changes_the_version(growing) -> None:
    with serving(str(growing)) as server:
        versions = [get(server, "/version")[2]]
        (part,) = growing.glob("parts/*/batch-000001.rollouts.parquet")
        for change in (
            lambda: part.rename(part.with_suffix(".hidden")),
            lambda: part.with_suffix(".hidden").rename(part),
            lambda: part.write_bytes(part.read_bytes() + b" "),
            lambda: os.utime(part, ns=(1, 1)),
            lambda: (growing / "trajectory.jsonl").write_text("x"),
        ):
            before = len(values_of(get(server)[2])["subjects"])
            assert before in (0, 1)
            change()
            versions.append(get(server, "/version")[2])
        # There and back again is the first one.
        assert versions[0] == versions[2]
        assert len(set(versions)) == 5
        # What the page is not made of changes nothing.
        (growing / "notes.txt").write_text("mine")
        (growing / "report.html").write_text("mine")
        assert get(server, "/version")[2] == versions[-1]


def test_a_page_that_waits(growing, tmp_path) -> None:
    parts = growing / "parts"
    parts.rename(tmp_path / "later")
    with serving([growing]) as server:
        status, _, body = get(server)
        assert status == 200
        assert "Waiting for the first finished batch." in body
        assert values_of(body)["subjects"] == []
        assert 'fetch("version"' in body
        (tmp_path / "later").rename(parts)
        (subject,) = values_of(get(server)[2])["subjects"]
        assert len(subject["rollouts"]) == 2


def test_a_run_that_breaks_says_so(growing) -> None:
    with serving([growing], markers=("wait",)) as server:
        found = values_of(get(server)[2])
        assert (len(found["subjects"]), found["markers"]) == (1, ["wait"])
        (growing / "config.json").write_text("<script>no JSON")
        status, _, body = get(server)
        assert status == 200
        assert "config.json cannot be read" in body
        assert "Waiting" not in body
        assert "<script>no JSON" not in body
        assert values_of(body)["subjects"] == []
        shutil.rmtree(growing)
        assert "does not exist" in get(server)[2]


def test_several_runs(growing, tmp_path) -> None:
    other = shutil.copytree(growing, tmp_path / "other")
    with serving([f"first={growing}", other]) as server:
        found = values_of(get(server)[2])
        assert [subject["label"] for subject in found["subjects"]] == ["first", "mine"]
        version = get(server, "/version")[2]
        (other / "summary.json").write_text("{}")
        assert get(server, "/version")[2] != version


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:{port}.evil.example", "", "localhost:1"]
)
def test_other_hosts_are_refused(growing, host) -> None:
    with serving([growing]) as server:
        for path in ("/", "/version"):
            status, _, body = get(server, path, Host=host.format(port=server.server_port))
            assert (status, "own address only" in body) == (403, True)
            assert "mine" not in body


def test_its_own_names_and_no_other_paths(growing) -> None:
    with serving([growing]) as server:
        for name in ("127.0.0.1", "localhost"):
            assert get(server, Host=f"{name}:{server.server_port}")[0] == 200
        for path in ("/nothing", "/tokens.parquet", "/../config.json", "/version/", "/favicon.ico"):
            assert get(server, path)[0] == 404
        request = urllib.request.Request(server.address, method="POST", data=b"x")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        caught.value.close()
        assert caught.value.code == 501
        # Other machines do not reach it.
        assert server.server_address[0] == "127.0.0.1"


def test_readers_that_leave_do_no_harm(growing, capfd) -> None:
    with serving([growing]) as server:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.server_port)) as leaving:
                request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n"
                leaving.sendall(request.encode())
                # Reset rather than closed.
                leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert get(server)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_requests_at_once_get_the_same_page(growing) -> None:
    with serving([growing]) as server:
        bodies = []
        threads = [threading.Thread(target=lambda: bodies.append(get(server)[2])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(bodies) == 4
        assert len(set(bodies)) == 1


def test_what_cannot_be_served_is_refused_at_once(growing, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "nowhere", tmp_path / "file", "x" * 5000):
        with pytest.raises(InvalidInputError, match=r"is not a folder\. Start the run first"), serving([path]):
            pass
    with pytest.raises(InvalidInputError, match="is named twice"), serving([growing, f"{growing}/."]):
        pass
    with pytest.raises(InvalidInputError, match="forking_share must lie"), serving([growing], forking_share=2):
        pass
    with (
        serving([growing]) as server,
        pytest.raises(InvalidInputError, match=rf"port {server.server_port} \(Address already in use\)"),
        serving([growing], server.server_port),
    ):
        pass
    for port in (-1, 70_000):
        with pytest.raises(InvalidInputError, match=rf"cannot listen on port {port}"), serving([growing], port):
            pass


def test_the_thread_and_the_port_end_with_the_block(growing) -> None:
    before = set(threading.enumerate())
    with contextlib.suppress(RuntimeError), serving([growing]) as server:
        get(server)
        raise RuntimeError
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()
    with pytest.raises(OSError, match="refused"):
        get(server)
    with serving([growing], server.server_port) as again:
        assert get(again)[0] == 200


def test_signatures_of_folders_that_are_gone(growing, tmp_path) -> None:
    assert signature_of([tmp_path / "nowhere"]) == signature_of([])
    assert signature_of([growing]) != signature_of([])
    server = Server(Viewer([]), 0)
    assert server.address == f"http://127.0.0.1:{server.server_port}/"
    server.server_close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{folder}/nowhere"], "is not a folder. Start the run first"),
        (["{run}", "--port", "-1"], "cannot listen on port -1"),
        (["{run}", "--forking-share", "1"], "forking_share must lie between 0 and 1"),
        (["{run}", "--port", "many"], "invalid int value"),
        ([], "the following arguments are required"),
    ],
)
def test_bad_input_is_one_line(growing, tmp_path, capsys, words, message) -> None:
    status: object = None
    with contextlib.suppress(SystemExit):  # argparse
        status = cli.main(["view", "--no-browser", *(word.format(run=growing, folder=tmp_path) for word in words)])
    output = capsys.readouterr()
    assert status in (2, None)
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_the_command_opens_a_browser_unless_told_not_to(growing, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    opened = []

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("antiphase.commands.view.webbrowser.open", opened.append)
    monkeypatch.setattr("antiphase.commands.view.time.sleep", interrupted)
    assert cli.main(["view", str(growing), "--port", "0"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"serving {growing} on {opened[0]} (Ctrl-C stops)\n")
    assert cli.main(["view", str(growing), "--port", "0", "--no-browser"]) == 0
    assert len(opened) == 1


def test_ctrl_c_ends_the_command_with_status_0(growing) -> None:
    # A shell may start this test with SIGINT ignored, which children inherit.
    script = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('antiphase', run_name='__main__', alter_sys=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", script, "view", str(growing), "--port", "0", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    line = process.stdout.readline()
    assert line.startswith("serving "), (line, process.stderr.read() if process.poll() is not None else "")
    address = line.split(" on ")[1].split()[0]
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert "its 2 finished rollouts" in answer.read().decode()
    with urllib.request.urlopen(f"{address}version", timeout=60) as answer:
        assert len(answer.read()) == 16
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output == "\nstopped.\n"
    assert errors == ""

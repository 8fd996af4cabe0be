"""Fetching, from a server on this machine that cuts connections and refuses."""

from __future__ import annotations

import hashlib
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from midre_exp.data.readers.fixtures import write_lfw
from midre_exp.downloads import prepare, verify
from midre_exp.downloads.download import download
from midre_exp.downloads.get import main
from midre_exp.errors import DataError
from tests.data.trees import dataset
from tests.downloads.own_cards import own_card

CONTENT = bytes(range(256)) * 40
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@dataclass
class Server:
    """One file, and how it is served."""

    url: str = ""
    content: bytes = CONTENT
    cut: int = 0  # how many answers end after half of what is left
    status: int = 0  # of every answer, if not 0
    ranges: bool = True  # whether it can start in the middle
    asked: list[str] = field(default_factory=list)  # the Range of each request


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.asked.append(wanted)
            start = int(found[1]) if state.ranges and (found := re.match(r"bytes=(\d+)-", wanted)) else 0
            status = state.status or (416 if start >= len(state.content) else 206 if start else 200)
            rest = state.content[start:] if status < 400 else b""
            self.send_response(status)
            if status == 206:
                end = len(state.content)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if state.cut > 0:
                state.cut -= 1
                rest = rest[: len(rest) // 2]
            self.wfile.write(rest)

        def log_message(self, *_: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{serving.server_address[1]}/a.tar"
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_a_file_that_is_cut_off_goes_on_where_it_stopped(server, tmp_path):
    server.cut = 2
    download(server.url, tmp_path / "a.tar", md5=MD5, pause=0)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert server.asked == ["", f"bytes={half}-", f"bytes={half + half // 2}-"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_later_call_goes_on_too(server, tmp_path):
    server.cut = 99
    with pytest.raises(DataError, match=r"bytes came\); check the network.*a.tar.part is kept"):
        download(server.url, tmp_path / "a.tar", pause=0)
    server.cut, have = 0, (tmp_path / "a.tar.part").stat().st_size
    download(server.url, tmp_path / "a.tar", md5=MD5, pause=0)
    assert server.asked[-1] == f"bytes={have}-" and have > 0
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_starts_again(server, tmp_path):
    server.cut, server.ranges = 1, False
    download(server.url, tmp_path / "a.tar", md5=MD5, pause=0)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_what_came_whole_but_was_not_named_is_taken(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(CONTENT)
    download(server.url, tmp_path / "a.tar", md5=MD5, pause=0)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "told"), [(b"<!DOCTYPE html><p>quota</p>", "is a web page"), (b"other", "has the MD5")]
)
def test_another_file_does_not_get_the_name(content, told, server, tmp_path):
    server.content = content
    with pytest.raises(DataError, match=told):
        download(server.url, tmp_path / "a.tar", md5=MD5, pause=0)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_told_at_once_and_a_failure_of_the_server_is_tried_again(server, tmp_path):
    for status, tries in ((403, 1), (503, 4)):
        server.status, server.asked = status, []
        with pytest.raises(DataError, match=f"the server answers {status}"):
            download(server.url, tmp_path / "a.tar", pause=0)
        assert len(server.asked) == tries


def test_the_command_fetches_what_lacks(server, tmp_path, capsys):
    own = own_card(
        tmp_path / "conf", "mine", card="stanford_dogs", downloads={"a.tar": server.url}, md5={"a.tar": MD5}
    )
    call = ["mine", "--config-dir", str(own), "--root", str(tmp_path / "dogs")]
    assert main(call) == 0
    assert "a.tar fetched: 10,240 bytes\n" in capsys.readouterr().out
    assert main(call) == 0
    out = capsys.readouterr().out
    assert "a.tar is in" in out and "midre-exp data prepare mine" in out
    assert len(server.asked) == 1


def test_without_a_network_the_exit_code_is_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("midre_exp.downloads.download.time.sleep", lambda seconds: None)
    own = own_card(tmp_path, "mine", card="afhq_dogs", downloads={"a.zip": "http://127.0.0.1:9/a.zip"})
    assert main(["mine", "--config-dir", str(own), "--root", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "check the network of this machine" in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["celeba", "celeba_hd", "facescrub", "vggface2", "ffhq", "ffhq_1024"])
def test_what_is_handed_out_to_people_alone_is_told_in_a_sentence(name, tmp_path, capsys):
    assert main([name, "--data", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "put it into" in captured.err and str(tmp_path) in captured.err and "http" in captured.err


def test_an_unknown_name_is_told_with_the_known_ones(capsys):
    assert main(["celeb"]) == 2
    assert "did you mean celeba?" in capsys.readouterr().err
    assert main([]) == 2
    assert "NAME" in capsys.readouterr().err


def test_lfw_is_fetched_unpacked_and_found_whole(server, tmp_path, capsys):
    """The archives as they are handed out, tiny: get, prepare, verify, and the reader on what they leave."""
    write_lfw(tmp_path / "made", identities=2, images=4)
    with tarfile.open(tmp_path / "lfw.tgz", "w:gz") as packed:
        packed.add(tmp_path / "made" / "lfw", "lfw")
    server.content = (tmp_path / "lfw.tgz").read_bytes()
    md5 = {"lfw.tgz": hashlib.md5(server.content, usedforsecurity=False).hexdigest()}
    images = {"all": 16, "train": 7, "test": 2, "public": 7}
    own = own_card(
        tmp_path / "conf",
        "faces",
        card="lfw",
        reader="lfw",
        expect={"min_images": 4},
        downloads={"lfw.tgz": server.url},
        md5=md5,
        images=images,
    )
    call = ["faces", "--config-dir", str(own), "--root", str(tmp_path / "data" / "lfw")]
    assert main(call) == 0 and prepare.main(call) == 0 and verify.main(call) == 0
    out = capsys.readouterr().out
    assert "lfw.tgz: 17 files unpacked" in out  # the list beside the people too
    for line in ("lfw.tgz: the publishers' file (MD5)", "faces public: 7 images", "pictures: 16 decoded"):
        assert f"ok      {line}" in out
    assert dataset("lfw", tmp_path / "data", min_images=4).num_identities() == 2
    (tmp_path / "data" / "lfw" / "lfw" / "Abba_Eban" / "Abba_Eban_0001.jpg").unlink()
    assert verify.main(call) == 1  # one picture less
    assert "damage  faces " in capsys.readouterr().out

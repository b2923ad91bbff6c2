"""An image server as the Human Protein Atlas's, on loopback, with the FOVs of two ids."""

import contextlib
import gzip
import http.server
import threading

import cv2
import numpy as np

import small_fovs
from hpa_proto import schema

IDS = ("10005_921_B9_1", "36/410_D12_2")
FOV_IDS = ("10005_921_B9_1", "36_410_D12_2")


class Server:
    """Answers with `files`, unless `faults` has something else to say first: path -> answers, one a request."""

    def __init__(self):
        self.files = {}
        self.faults = {}
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                if answers := outer.faults.get(self.path):
                    answer = answers.pop(0)
                    if answer == "cut":
                        data = outer.files[self.path]
                        self.send_response(200)
                        self.send_header("Content-Length", str(len(data)))
                        self.end_headers()
                        self.wfile.write(data[: len(data) // 2])
                        return
                    if isinstance(answer, bytes):
                        self.send_response(200)
                        self.send_header("Content-Length", str(len(answer)))
                        self.end_headers()
                        self.wfile.write(answer)
                        return
                    status, headers = answer if isinstance(answer, tuple) else (answer, {})
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                data = outer.files.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def _encode(plane, channel, suffix):
    """As the Atlas has them: JPEG in the channel's colour, or a grey TIFF, gzipped."""
    if suffix == "tif.gz":
        return gzip.compress(cv2.imencode(".tif", plane)[1].tobytes())
    shares = {"red": (0, 0, 1), "green": (0, 1, 0), "blue": (1, 0, 0), "yellow": (0, 1, 1)}[channel]
    return cv2.imencode(".jpg", np.dstack([plane * share for share in shares]))[1].tobytes()


@contextlib.contextmanager
def serve():
    """Starts a server that has both FOVs, JPEG and TIFF, and yields it."""
    made = Server()
    for number, place in enumerate(("10005/921_B9_1", "36/410_D12_2")):
        image, _, _ = small_fovs.draw_fov(seed=number)
        for index, channel in enumerate(schema.CHANNELS):
            for suffix in ("jpg", "tif.gz"):
                made.files[f"/{place}_{channel}.{suffix}"] = _encode(image[..., index], channel, suffix)
    with made.running():
        yield made

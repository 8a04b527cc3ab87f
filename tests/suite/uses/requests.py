"""A request to a server of the program's own, on loopback."""

import http.server
import threading

import requests


class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with requests.Session() as session:
        answer = session.post(f"http://127.0.0.1:{server.server_port}/", json={"a": 1}, timeout=10)
    assert answer.json() == {"a": 1}
    server.shutdown()

"""A request to a server of the program's own, on loopback, by the blocking and the asynchronous client."""

import asyncio
import http.server
import threading

import httpx


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"text")

    def log_message(self, *args):
        pass


async def ask(url):
    async with httpx.AsyncClient() as client:
        return [answer.text for answer in await asyncio.gather(*(client.get(url) for _ in range(5)))]


with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    assert httpx.get(url).text == "text"
    assert asyncio.run(ask(url)) == ["text"] * 5
    server.shutdown()

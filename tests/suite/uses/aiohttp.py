"""A server and its clients in one event loop, on loopback."""

import asyncio

from aiohttp import ClientSession, web


async def main():
    async def answer(request):
        return web.json_response({"got": (await request.json())["n"]})

    application = web.Application()
    application.router.add_post("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    async def ask(session, n):
        async with session.post(f"http://127.0.0.1:{port}/", json={"n": n}) as got:
            return (await got.json())["got"]

    async with ClientSession() as session:
        assert await asyncio.gather(*(ask(session, n) for n in range(10))) == list(range(10))
    await runner.cleanup()


asyncio.run(main())

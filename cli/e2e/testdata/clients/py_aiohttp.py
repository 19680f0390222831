import asyncio, os
import aiohttp

key = os.environ["OPENAI_API_KEY"]
print("env=" + key)


async def main():
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer " + key}) as s:
        async with s.post("https://api.openai.com/v1/chat/completions", json={}) as r:
            print((await r.json())["choices"][0]["message"]["content"])
        async with s.get("https://api.openai.com/echo") as r:
            print("echo=" + await r.text(), dict(r.headers))


asyncio.run(main())

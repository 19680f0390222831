import os, sys
import httpx

key = os.environ["OPENAI_API_KEY"]
print("env=" + key)
# Debian's httpx brings certifi, which is the system's bundle there; upstream's reads SSL_CERT_FILE.
with httpx.Client(headers={"Authorization": "Bearer " + key}, base_url="https://api.openai.com", http2="--http2" in sys.argv) as c:
    print(c.post("/v1/chat/completions", json={}).json()["choices"][0]["message"]["content"])
    r = c.get("/echo")
    print("echo=" + r.text, dict(r.headers))

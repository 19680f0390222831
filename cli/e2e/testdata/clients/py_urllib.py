import json, os
import urllib.request

key = os.environ["OPENAI_API_KEY"]
print("env=" + key)


def ask(path, data=None):
    head = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request("https://api.openai.com" + path, data, head))


answer = json.load(ask("/v1/chat/completions", b"{}"))
print(answer["choices"][0]["message"]["content"])
r = ask("/echo")
print("echo=" + r.read().decode(), dict(r.headers))

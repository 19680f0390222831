import os

import requests

key = os.environ["OPENAI_API_KEY"]
print("env=" + key)
head = {"Authorization": "Bearer " + key}
r = requests.post("https://api.openai.com/v1/chat/completions", headers=head, json={"model": "gpt", "messages": []})
print(r.json()["choices"][0]["message"]["content"])
r = requests.get("https://api.openai.com/echo", headers=head)
print("echo=" + r.text, dict(r.headers))

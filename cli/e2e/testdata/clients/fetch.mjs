// Node, Bun and Deno all run this.
import process from "node:process";

const key = process.env.OPENAI_API_KEY;
console.log("env=" + key);
const headers = { Authorization: "Bearer " + key, "Content-Type": "application/json" };
let r = await fetch("https://api.openai.com/v1/chat/completions", { method: "POST", headers, body: "{}" });
console.log((await r.json()).choices[0].message.content);
r = await fetch("https://api.openai.com/echo", { headers });
console.log("echo=" + (await r.text()), JSON.stringify([...r.headers]));

import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic();
console.log("env=" + client.apiKey);
const stream = client.messages.stream({ model: "claude", max_tokens: 9, messages: [{ role: "user", content: "hi" }] });
let text = "";
stream.on("text", (part) => (text += part));
await stream.finalMessage();
console.log(text);
console.log("echo=" + JSON.stringify(await client.get("/echo")));

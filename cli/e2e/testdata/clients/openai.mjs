import OpenAI from "openai";

const client = new OpenAI();
console.log("env=" + client.apiKey);
const r = await client.chat.completions.create({ model: "gpt", messages: [{ role: "user", content: "hi" }] });
console.log(r.choices[0].message.content);
console.log("echo=" + JSON.stringify(await client.get("/echo")));

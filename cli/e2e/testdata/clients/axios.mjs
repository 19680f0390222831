import axios from "axios";

const key = process.env.OPENAI_API_KEY;
console.log("env=" + key);
const api = axios.create({ baseURL: "https://api.openai.com", headers: { Authorization: "Bearer " + key } });
console.log((await api.post("/v1/chat/completions", {})).data.choices[0].message.content);
const r = await api.get("/echo");
console.log("echo=" + JSON.stringify(r.data), JSON.stringify(r.headers));

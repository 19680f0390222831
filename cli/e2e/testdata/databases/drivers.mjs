// The database drivers of Node: pg, mysql2 and ioredis.
import assert from "node:assert";
import { readFileSync } from "node:fs";
import Redis from "ioredis";
import mysql from "mysql2/promise";
import pg from "pg";

const ca = readFileSync(process.env.SSL_CERT_FILE);
const wrong = (text) => { const u = new URL(text); u.password += "x"; return u.href; };

async function postgres(url) {
  const options = { connectionString: url, ssl: { ca } };
  const c = new pg.Client(options);
  await c.connect();
  assert.equal((await c.query({ name: "plus", text: "SELECT $1::int + 1 AS n", values: [41] })).rows[0].n, 42);
  await c.query("BEGIN");
  await c.query("CREATE TABLE gone (n int)");
  await c.query("ROLLBACK");
  assert.equal((await c.query("SELECT to_regclass('gone') AS t")).rows[0].t, null);
  const heard = new Promise((resolve) => c.on("notification", resolve));
  await c.query("LISTEN news");
  const pool = new pg.Pool({ ...options, max: 50 });
  await Promise.all(Array.from({ length: 50 }, () => pool.query("SELECT pg_sleep(0.3)")));
  assert.equal(pool.totalCount, 50);
  await pool.query("NOTIFY news, 'hello'");
  assert.equal((await heard).payload, "hello");
  assert.equal((await c.query("SELECT repeat('x', 1000000) AS s FROM generate_series(1, 20)")).rows.length, 20);
  await pool.end();
  await c.end();
  await assert.rejects(new pg.Client({ ...options, connectionString: wrong(url) }).connect(), { code: "28P01" });
  console.log("pg ok");
}

async function mariadb(url) {
  const u = new URL(url);
  const options = { host: u.hostname, port: u.port, user: u.username, password: decodeURIComponent(u.password), database: "d", ssl: { ca, verifyIdentity: true } };
  const pool = mysql.createPool({ ...options, connectionLimit: 50 });
  await Promise.all(Array.from({ length: 50 }, () => pool.query("SELECT SLEEP(0.3)")));
  const c = await pool.getConnection();
  assert.equal((await c.execute("SELECT ? + 1 AS n", [41]))[0][0].n, 42); // prepared by the server
  await c.query("CREATE TABLE node (n INT) ENGINE=InnoDB");
  await c.beginTransaction();
  await c.query("INSERT INTO node VALUES ?", [Array.from({ length: 1000 }, (_, i) => [i])]);
  await c.rollback();
  assert.equal((await c.query("SELECT COUNT(*) AS n FROM node"))[0][0].n, 0);
  assert.equal((await c.query("SELECT REPEAT('x', 10000000) AS s"))[0][0].s.length, 10000000);
  c.release();
  await pool.end();
  const { password } = options;
  await assert.rejects(mysql.createConnection({ ...options, password: password + "x" }), { code: "ER_ACCESS_DENIED_ERROR", errno: 1045 });
  const again = await mysql.createConnection(options);
  await assert.rejects(again.changeUser({ user: u.username, password })); // a second login
  again.destroy();
  console.log("mysql2 ok");
}

async function redis(url) {
  const options = { tls: { ca }, maxRetriesPerRequest: 0, retryStrategy: () => null };
  const c = new Redis(url, options);
  assert.equal(await c.acl("WHOAMI"), "alice");
  const p = c.pipeline();
  for (let i = 0; i < 5000; i++) p.set("node" + i, i);
  assert((await p.exec()).every(([failed]) => failed === null));
  assert.deepEqual(await c.multi().incr("nodes").incr("nodes").exec(), [[null, 1], [null, 2]]);
  const s = c.duplicate();
  const heard = new Promise((resolve) => s.on("message", (_, text) => resolve(text)));
  await s.subscribe("news");
  await c.publish("news", "hello");
  assert.equal(await heard, "hello");
  const pool = Array.from({ length: 50 }, () => c.duplicate());
  assert((await Promise.all(pool.map((one) => one.get("node7")))).every((v) => v === "7"));
  const denied = new Redis(wrong(url), { ...options, lazyConnect: true });
  denied.on("error", () => {});
  await assert.rejects(denied.connect().then(() => denied.ping()), /WRONGPASS|NOAUTH|closed/);
  for (const one of [c, s, denied, ...pool]) one.disconnect();
  console.log("ioredis ok");
}

await postgres(process.env.POSTGRES_URL);
await mariadb(process.env.MYSQL_URL);
await redis(process.env.REDIS_URL);

// Uploads and reads objects with AWS's SDK for JavaScript, configured by the environment.
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import { S3Client, PutObjectCommand, GetObjectCommand, ListObjectsV2Command, DeleteObjectCommand } from '@aws-sdk/client-s3';
import { STSClient, GetCallerIdentityCommand } from '@aws-sdk/client-sts';
import { Upload } from '@aws-sdk/lib-storage';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';

const Bucket = 'bucket';
const s3 = new S3Client({});
const small = Buffer.alloc(1000, '0123456789abcdef');
const large = Buffer.alloc(17 << 20, '0123456789abcdef');
const hash = (b) => createHash('sha256').update(b).digest('hex');

async function check(Key, want) {
  const got = Buffer.from(await (await s3.send(new GetObjectCommand({ Bucket, Key }))).Body.transformToByteArray());
  if (hash(got) !== hash(want)) throw new Error(`${Key}: read ${got.length} bytes, want ${want.length} others`);
  console.log(Key, 'ok');
}

async function* pieces(b) {
  for (let at = 0; at < b.length; at += 50000) yield b.subarray(at, at + 50000);
}

await s3.send(new PutObjectCommand({ Bucket, Key: 'js-buffer', Body: small }));
await check('js-buffer', small);
await s3.send(new PutObjectCommand({ Bucket, Key: 'js-stream é+', Body: Readable.from(pieces(large.subarray(0, 300000))), ContentLength: 300000 }));
await check('js-stream é+', large.subarray(0, 300000));
await s3.send(new PutObjectCommand({ Bucket, Key: 'js-sha256', Body: Readable.from(pieces(large.subarray(0, 200000))), ContentLength: 200000, ChecksumAlgorithm: 'SHA256' }));
await check('js-sha256', large.subarray(0, 200000));
await new Upload({ client: s3, params: { Bucket, Key: 'js-parts', Body: Readable.from(pieces(large)) } }).done();
await check('js-parts', large);

const put = await getSignedUrl(s3, new PutObjectCommand({ Bucket, Key: 'js-url' }), { expiresIn: 60 });
let answer = await fetch(put, { method: 'PUT', body: small });
if (answer.status !== 200) throw new Error(`presigned put: ${answer.status} ${await answer.text()}`);
answer = await fetch(await getSignedUrl(s3, new GetObjectCommand({ Bucket, Key: 'js-url' }), { expiresIn: 60 }));
if (Buffer.compare(Buffer.from(await answer.arrayBuffer()), small)) throw new Error('presigned get');
console.log('js-url ok');

// What an object's own coding hides is undone on the way, since it is searched for keys.
await s3.send(new PutObjectCommand({ Bucket, Key: 'js-gzip', Body: gzipSync(small), ContentEncoding: 'gzip' }));
await check('js-gzip', small);

for (const o of (await s3.send(new ListObjectsV2Command({ Bucket, Prefix: 'js-' }))).Contents) {
  await s3.send(new DeleteObjectCommand({ Bucket, Key: o.Key }));
  console.log('deleted', o.Key);
}
console.log((await new STSClient({ region: 'us-east-1' }).send(new GetCallerIdentityCommand({}))).Arn);

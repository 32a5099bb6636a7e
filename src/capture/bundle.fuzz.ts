// Random damage to bundles, with and without checksums made to fit: a refusal or the one right capture, never a throw.

import { gunzipSync, gzipSync } from 'node:zlib';
import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { fakeMachine } from '../../test/support/fake-machine.ts';
import { BUNDLE_HEADER_BYTES, decodeBundle, encodeBundle, type Gunzip } from './bundle.ts';
import { crc32 } from './bytes.ts';
import { gather } from './gather.ts';

const gzip = (bytes: Uint8Array): Uint8Array => gzipSync(bytes);
const gunzip: Gunzip = (bytes, rawBytes) => {
  try {
    return gunzipSync(bytes, { maxOutputLength: rawBytes + 1 });
  } catch {
    return undefined;
  }
};

const capture = gather(fakeMachine(), { kind: 'live', name: 'this machine' })!; // the fake machine is a machine
const bundle = encodeBundle(capture, { gzip, toolVersion: '0.1.0' });
const view = new DataView(bundle.buffer, bundle.byteOffset);
const tableEnd = BUNDLE_HEADER_BYTES + view.getUint32(20, true);

it('BU-F1 damaged bytes and spliced pieces are refused', () => {
  for (let seed = 1; seed <= 3000; seed++) {
    const prng = new Prng(seed);
    let bytes: Uint8Array = Uint8Array.from(bundle);
    for (let edits = 1 + prng.below(4); edits > 0; edits--) {
      const at = prng.below(bytes.length);
      const kind = prng.below(3);
      if (kind === 0) bytes[at] ^= 1 + prng.below(255);
      else if (kind === 1) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + prng.below(64))]);
      else bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(prng.below(bytes.length))]);
      if (bytes.length === 0) break;
    }
    const opened = decodeBundle(bytes, { gunzip, name: 'x' });
    const same = Buffer.compare(bytes, bundle) === 0;
    expect(opened.ok, `seed=${seed}`).toBe(same);
  }
});

it('BU-F2 a table edited at random, with checksums that fit, is refused or is a capture that encodes again', () => {
  const table = gunzipSync(bundle.subarray(BUNDLE_HEADER_BYTES, tableEnd));
  const chunks = bundle.subarray(tableEnd);
  let opened = 0;
  let refused = 0;
  for (let seed = 1; seed <= 2000; seed++) {
    const prng = new Prng(seed);
    const raw = Buffer.from(table);
    // Digits, quotes and brackets are where a table hurts: most edits swap such a byte for another.
    const sore = [...raw.keys()].filter((at) => '0123456789"{}[],:/'.includes(String.fromCharCode(raw[at])));
    for (let edits = 1 + prng.below(3); edits > 0; edits--)
      raw[prng.pick(sore)] = prng.chance(0.8) ? raw[prng.pick(sore)] : prng.below(256);
    const tableGzip = gzip(raw);
    const body = Buffer.concat([tableGzip, chunks]);
    const header = Buffer.from(bundle.subarray(0, BUNDLE_HEADER_BYTES));
    [body.length, crc32(body), tableGzip.length, raw.length].forEach((field, i) => {
      header.writeUInt32LE(field, 12 + i * 4);
    });
    header.writeUInt32LE(crc32(header.subarray(0, 28)), 28);
    const outcome = decodeBundle(Buffer.concat([header, body]), { gunzip, name: 'x' });
    if (!outcome.ok) {
      refused++;
      expect(outcome.error.reason, `seed=${seed}`).toBe('corrupt');
      continue;
    }
    opened++;
    const again = decodeBundle(encodeBundle(outcome.value, { gzip, toolVersion: '0.1.0' }), { gunzip, name: 'x' });
    expect(again.ok && again.value, `seed=${seed}`).toEqual(outcome.value);
  }
  expect(opened).toBeGreaterThan(100); // a time, a digit of an inode: still a table
  expect(refused).toBeGreaterThan(100);
});

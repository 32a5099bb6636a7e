import { gunzipSync, gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { fakeMachine } from '../../test/support/fake-machine.ts';
import {
  BUNDLE_HEADER_BYTES,
  type BundleRefusal,
  decodeBundle,
  encodeBundle,
  type Gunzip,
  looksLikeBundle,
} from './bundle.ts';
import { crc32 } from './bytes.ts';
import type { Capture } from './capture.ts';
import { gather } from './gather.ts';
import { RecordedTree } from './recorded-tree.ts';

const gzip = (bytes: Uint8Array): Uint8Array => gzipSync(bytes);
const gunzip: Gunzip = (bytes, rawBytes) => {
  try {
    return gunzipSync(bytes, { maxOutputLength: rawBytes + 1 });
  } catch {
    return undefined;
  }
};

function sample(): Capture {
  const machine = fakeMachine();
  machine.denied.set('/proc/slabinfo', { kind: 'denied', detail: 'reading it is refused (EACCES)' });
  const origin = { kind: 'live', name: 'this machine', takenAt: '2026-11-20T23:57:00.000Z' } as const;
  const capture = gather(machine, origin);
  if (capture === undefined) throw new Error('the fake machine is a machine');
  return capture;
}

const capture = sample();
const bundle = encodeBundle(capture, { gzip, toolVersion: '0.1.0' });

function open(bytes: Uint8Array): Capture {
  const opened = decodeBundle(bytes, { gunzip, name: 'x.dimmer' });
  if (!opened.ok) throw new Error(opened.error.sentence);
  return opened.value;
}

function refusalOf(bytes: Uint8Array): BundleRefusal {
  const opened = decodeBundle(bytes, { gunzip, name: 'x.dimmer' });
  if (opened.ok) throw new Error('it opened');
  return opened.error;
}

/** The bundle with its table replaced and every checksum made to fit: what a forger would do. */
function forged(edit: (table: Record<string, unknown>) => unknown, tail: Uint8Array = new Uint8Array(0)): Uint8Array {
  const view = new DataView(bundle.buffer, bundle.byteOffset);
  const tableBytes = view.getUint32(20, true);
  const body = bundle.subarray(BUNDLE_HEADER_BYTES);
  const table: Record<string, unknown> = JSON.parse(Buffer.from(gunzipSync(body.subarray(0, tableBytes))).toString());
  const raw = Buffer.from(JSON.stringify(edit(table)));
  return sealed(gzip(raw), raw.length, Buffer.concat([body.subarray(tableBytes), tail]));
}

function sealed(tableGzip: Uint8Array, tableRaw: number, chunks: Uint8Array): Uint8Array {
  const body = Buffer.concat([tableGzip, chunks]);
  const header = Buffer.from(bundle.subarray(0, BUNDLE_HEADER_BYTES));
  header.writeUInt32LE(body.length, 12);
  header.writeUInt32LE(crc32(body), 16);
  header.writeUInt32LE(tableGzip.length, 20);
  header.writeUInt32LE(tableRaw, 24);
  header.writeUInt32LE(crc32(header.subarray(0, 28)), 28);
  return Buffer.concat([header, body]);
}

/** Changes one entry of the table. */
const withEntry =
  (index: number, change: Record<string, unknown>) =>
  (table: Record<string, unknown>): unknown => ({
    ...table,
    entries: (table.entries as object[]).map((entry, i) => (i === index ? { ...entry, ...change } : entry)),
  });

describe('a bundle that is whole', () => {
  it('BU1 gives the capture back: files, links, times, page words, cgroups, problems', () => {
    const again = open(bundle);
    expect(again.origin).toEqual({ kind: 'bundle', name: 'x.dimmer', takenAt: '2026-11-20T23:57:00.000Z' });
    expect({ ...again, origin: capture.origin }).toEqual(capture);
    if (!(again.tree instanceof RecordedTree)) throw new Error('a bundle holds a recorded tree');
    expect(again.tree.files).toEqual((capture.tree as RecordedTree).files);
    expect([...again.tree.pageReads]).toEqual([...(capture.tree as RecordedTree).pageReads]);
    expect(again.problems.map((p) => p.kind)).toEqual(['denied']);
  });

  it('BU2 equal captures are equal bytes, also after a round trip', () => {
    expect(Buffer.compare(encodeBundle(sample(), { gzip, toolVersion: '0.1.0' }), bundle)).toBe(0);
    expect(Buffer.compare(encodeBundle(open(bundle), { gzip, toolVersion: '0.1.0' }), bundle)).toBe(0);
  });

  it('BU3 nothing is required but a tree: no page words, no time, no cgroups', () => {
    const bare: Capture = {
      origin: { kind: 'directory', name: 'd' },
      tree: new RecordedTree([]),
      cgroups: new Map(),
      problems: [],
    };
    const again = open(encodeBundle(bare, { gzip, toolVersion: '' }));
    expect(again).toEqual({ ...bare, origin: { kind: 'bundle', name: 'x.dimmer' } });
  });

  it('BU4 a tree of another kind is read through the manifest, secrets left behind', () => {
    const { files } = fakeMachine();
    const tree = { readText: (path: string) => files.get(path), list: (path: string) => fakeMachine().list(path) };
    const again = open(encodeBundle({ ...capture, tree }, { gzip, toolVersion: '0.1.0' }));
    expect(again.tree.readText('/proc/cmdline')).toBe(capture.tree.readText('/proc/cmdline'));
    expect(again.tree.list('/sys/devices/system/memory')).toEqual(capture.tree.list('/sys/devices/system/memory'));
  });

  it('BU5 text that is not ASCII, and empty text, come back as they were', () => {
    const tree = new RecordedTree([
      { path: '/proc/a', kind: 'text', text: '\ufeffä\n€ 😀\0', startedMs: 1, endedMs: 2 },
      { path: '/proc/b', kind: 'text', text: '', startedMs: 2, endedMs: 2 },
    ]);
    const again = open(encodeBundle({ ...capture, tree }, { gzip, toolVersion: '0.1.0' }));
    expect(again.tree.readText('/proc/a')).toBe('\ufeffä\n€ 😀\0');
    expect(again.tree.readText('/proc/b')).toBe('');
  });

  it('BU6 the eight bytes of the magic tell a bundle of any version', () => {
    expect(looksLikeBundle(bundle.subarray(0, 8))).toBe(true);
    expect(looksLikeBundle(bundle.subarray(0, 7))).toBe(false);
    expect([...bundle.subarray(0, 12)]).toEqual([0x89, 0x44, 0x49, 0x4d, 0x4d, 13, 10, 0x1a, 1, 0, 0xfe, 0xff]);
  });
});

describe('a bundle that is not', () => {
  it('BU7 foreign files are named so: text, gzip, an image, random bytes', () => {
    const foreign = [
      Buffer.from('hello'),
      gzip(Buffer.from('x')),
      Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
      Buffer.alloc(99),
    ];
    for (const bytes of foreign) {
      const { reason, sentence } = refusalOf(bytes);
      expect(reason).toBe('foreign');
      expect(sentence).toBe('x.dimmer is not a dimmer bundle. Make one with: dimmer capture -o FILE');
    }
  });

  it('BU8 a newer version is named so, whatever else is in the file', () => {
    for (const version of [2, 3, 255, 65535]) {
      const newer = Buffer.from(bundle.subarray(0, 100));
      newer.writeUInt16LE(version, 8);
      newer.writeUInt16LE(~version & 0xffff, 10);
      const { reason, sentence } = refusalOf(newer);
      expect(reason).toBe('newer');
      expect(sentence).toBe(`x.dimmer has format version ${version}; this dimmer reads up to 1. Use a newer dimmer.`);
    }
  });

  it('BU9 cut short anywhere: truncated, with how much is there', () => {
    expect(refusalOf(new Uint8Array(0))).toEqual({
      reason: 'truncated',
      sentence: 'x.dimmer is empty. Copy or capture it again.',
    });
    for (let bytes = 1; bytes < bundle.length; bytes += bytes < 64 ? 1 : Math.floor(bundle.length / 64)) {
      const { reason, sentence } = refusalOf(bundle.subarray(0, bytes));
      expect(reason, `at ${bytes}`).toBe('truncated');
      expect(sentence).toContain(`${bytes} bytes of `);
    }
  });

  it('BU10 one flipped bit anywhere is a refusal, never another capture', () => {
    const reasons: Record<string, number> = {};
    for (let at = 0; at < bundle.length; at++) {
      const damaged = Uint8Array.from(bundle);
      damaged[at] ^= 1 << (at % 8);
      const { reason } = refusalOf(damaged);
      reasons[reason] = (reasons[reason] ?? 0) + 1;
    }
    // The first five bytes make another file of it; everything behind them is damage, and is called so.
    expect(reasons).toEqual({ foreign: 5, corrupt: bundle.length - 5 });
  });

  it('BU11 bytes behind the end are damage, too', () => {
    expect(refusalOf(Buffer.concat([bundle, Buffer.from([0])])).reason).toBe('corrupt');
  });

  it('BU12 a file that was sent as text says so', () => {
    const sent = Buffer.from(Buffer.from(bundle).toString('latin1').replaceAll('\r\n', '\n'), 'latin1');
    expect(refusalOf(sent)).toEqual({
      reason: 'corrupt',
      sentence: 'x.dimmer was damaged on the way (sent as text?). Copy it again in binary mode.',
    });
  });
});

describe('a forged bundle with fitting checksums', () => {
  it('BU13 is opened when nothing was forged (the forging itself is sound)', () => {
    expect(open(forged((table) => table)).cgroups).toEqual(capture.cgroups);
  });

  it('BU14 is refused for each part of the table that is missing, of the wrong kind or out of range', () => {
    const first = capture.problems[0];
    const forgeries: Record<string, (table: Record<string, unknown>) => unknown> = {
      'not an object': () => [],
      'no entries': ({ entries: _, ...rest }) => rest,
      'entries not a list': (t) => ({ ...t, entries: {} }),
      'no tool': ({ tool: _, ...rest }) => rest,
      'a time that is none': (t) => ({ ...t, takenAt: 'yesterday' }),
      'a time of the wrong kind': (t) => ({ ...t, takenAt: 5 }),
      'a kernel release of the wrong kind': (t) => ({ ...t, kernelRelease: {} }),
      'an unknown kind of problem': (t) => ({ ...t, problems: [{ ...first, kind: 'odd' }] }),
      'a problem that steers a terminal': (t) => ({ ...t, problems: [{ ...first, detail: '\u001b[2J' }] }),
      'a cgroup without a path': (t) => ({ ...t, cgroups: [[1]] }),
      'a negative inode': (t) => ({ ...t, cgroups: [[-1, '/']] }),
      'an unknown kind of entry': withEntry(0, { kind: 'device' }),
      'an entry of negative length': withEntry(0, { bytes: -1 }),
      'an entry of half a byte': withEntry(0, { bytes: 0.5 }),
      'an entry longer than its chunk': withEntry(0, { bytes: 2 ** 52 }),
      'an entry shorter than its text': withEntry(0, { bytes: 0 }),
      'an entry in no chunk': withEntry(0, { chunk: 99 }),
      'an entry read backwards in time': withEntry(0, { startedMs: 9, endedMs: 8 }),
      'a path out of the directory': withEntry(0, { path: '/proc/../../etc/cron.d/x' }),
      'a path outside /proc and /sys': withEntry(0, { path: '/etc/passwd' }),
      'a path twice': withEntry(0, { path: '/proc/zoneinfo' }),
      'a path below a file': withEntry(0, { path: '/proc/zoneinfo/x' }),
      'text called page words': withEntry(0, { kind: 'runs' }),
      'a chunk longer than the file': (t) => ({ ...t, chunks: [{ bytes: 2 ** 40, rawBytes: 1, rawCrc: 0 }] }),
      'a chunk left out': (t) => ({ ...t, chunks: (t.chunks as object[]).slice(0, -1) }),
      'a chunk with another checksum': (t) => ({
        ...t,
        chunks: (t.chunks as object[]).map((chunk) => ({ ...chunk, rawCrc: 1 })),
      }),
    };
    for (const [what, edit] of Object.entries(forgeries)) {
      const { reason, sentence } = refusalOf(forged(edit));
      expect(reason, what).toBe('corrupt');
      expect(sentence, what).toMatch(/^x\.dimmer is damaged: [^\u001b]+\. Copy it again from where it was made\.$/);
    }
  });

  it('BU15 page words under a name that has none are refused', () => {
    const last = (capture.tree as RecordedTree).files.length; // entries: text and links, then the page files
    expect(refusalOf(forged(withEntry(last, { path: '/proc/kpageother' }))).reason).toBe('corrupt');
  });

  it('BU16 a chunk that unpacks to more than it says, or says more than deflate can do, is not unpacked', () => {
    const asked: number[] = [];
    const spy: Gunzip = (bytes, rawBytes) => {
      asked.push(rawBytes);
      return gunzip(bytes, rawBytes);
    };
    const bomb = gzip(Buffer.alloc(64 * 1024 ** 2));
    const swollen = forged((t) => ({ ...t, chunks: [{ bytes: 1000, rawBytes: 2 ** 30, rawCrc: 0 }] }), bomb);
    const opened = decodeBundle(swollen, { gunzip: spy, name: 'x' });
    expect(opened.ok).toBe(false);
    expect(asked).toHaveLength(1); // the table only
    const table = Buffer.from('{}');
    const lying = sealed(bomb, table.length, new Uint8Array(0));
    expect(refusalOf(lying).reason).toBe('corrupt');
  });

  it('BU17 a table that is not JSON, not UTF-8 or absurdly deep is refused', () => {
    for (const raw of [Buffer.from('{'), Buffer.from([0xff, 0xfe]), Buffer.from('['.repeat(200_000))])
      expect(refusalOf(sealed(gzip(raw), raw.length, new Uint8Array(0))).reason).toBe('corrupt');
  });

  it('BU18 a field that is not known is passed over: a later 1.x may add one', () => {
    expect(open(forged((t) => ({ ...t, colour: 'red' }))).cgroups).toEqual(capture.cgroups);
  });
});
